"""Writers of small Qt resources and catalogues, the formats of GCompris."""

import struct
import zlib
from collections.abc import Mapping, Sequence

import pyarrow as pa

MAGIC = bytes.fromhex("3cb86418caef9c95cd211cbf60a1bddd")


def make_resources(files: Mapping[str, bytes], *, compression: str = "") -> bytes:
    """Return a `.rcc` file (format 1) of files in one folder level, `folder/name` -> content."""
    folders: dict[str, list[str]] = {}
    for path in files:
        folders.setdefault(path.partition("/")[0], []).append(path)
    names, data, tree = bytearray(), bytearray(), []

    def name(text: str) -> int:
        offset = len(names)
        encoded = text.encode("utf-16-be")
        names.extend(struct.pack(">HI", len(encoded) // 2, 0) + encoded)
        return offset

    tree.append(struct.pack(">IHII", 0, 2, len(folders), 1))
    first = 1 + len(folders)
    for folder, paths in folders.items():
        tree.append(struct.pack(">IHII", name(folder), 2, len(paths), first))
        first += len(paths)
    for paths in folders.values():
        for path in paths:
            content, flags = _compress(files[path], compression)
            tree.append(struct.pack(">IHHHI", name(path.partition("/")[2]), flags, 0, 1, len(data)))
            data.extend(struct.pack(">I", len(content)) + content)
    nodes = b"".join(tree)
    start = 20
    header = struct.pack(">IIII", 1, start, start + len(nodes), start + len(nodes) + len(data))
    return b"qres" + header + nodes + bytes(data) + bytes(names)


def _compress(content: bytes, compression: str) -> tuple[bytes, int]:
    if compression == "zlib":
        return struct.pack(">I", len(content)) + zlib.compress(content), 1
    if compression == "zstd":
        return bytes(pa.Codec("zstd").compress(content, asbytes=True)), 4
    return content, 0


def make_catalogue(messages: Sequence[tuple[str, str, str]]) -> bytes:
    """Return a `.qm` file of (context, source, translation)."""
    body, hashes = bytearray(), bytearray()
    for number, (context, source, translation) in enumerate(messages):
        hashes.extend(struct.pack(">II", number, len(body)))
        for tag, text in (
            (3, translation.encode("utf-16-be")),
            (8, b""),
            (6, source.encode()),
            (7, context.encode()),
        ):
            body.extend(struct.pack(">BI", tag, len(text)) + text)
        body.append(1)
    sections = ((0x42, hashes), (0x69, body))
    return MAGIC + b"".join(struct.pack(">BI", tag, len(part)) + part for tag, part in sections)
