"""Reader of Qt resource files (`.rcc`), bounded and safe against damaged files.

The format is that of Qt's `rcc`: a header, a tree of folders and files, their names and their data.
"""

import dataclasses
import io
import struct
import zlib

import pyarrow as pa

from core.errors import DataError

MAX_FILE_BYTES = 64 << 20
"""Largest file inside a resource; a few compressed kilobytes may expand to gigabytes."""
MAX_TOTAL_BYTES = 512 << 20
"""Largest total size of the files of a resource."""
MAX_NODES = 100_000
"""Largest number of folders and files of a resource."""
MAX_DEPTH = 32
"""Deepest folder of a resource."""
MAX_NAME_CHARS = 255
"""Longest name of a folder or file."""

_MAGIC = b"qres"
_HEADER_BYTES = 20
_NODE_BYTES = {1: 14, 2: 22, 3: 22}
"""Format version -> size of a node of the tree."""
_NAME_HEADER_BYTES = 6
_IS_ZLIB, _IS_FOLDER, _IS_ZSTD = 1, 2, 4
_READ_BLOCK = 1 << 20


def read_resources(content: bytes, where: str) -> dict[str, bytes]:
    """Return the files of a resource: path from the root -> content.

    Args:
        content: The bytes of the `.rcc` file.
        where: Name of the file for error messages.

    Raises:
        DataError: If it is not a resource, is damaged or exceeds a limit.
    """
    try:
        return _Resource(content).files()
    except (struct.error, UnicodeDecodeError, zlib.error, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{where} is not an intact Qt resource: {reason}; download its package again"
        ) from error


@dataclasses.dataclass(frozen=True, slots=True)
class _Node:
    """A folder or file of the tree."""

    name: str
    flags: int
    first: int
    """Index of the first child of a folder; offset of the data of a file."""
    num_children: int


class _Resource:
    """The sections of a resource file."""

    def __init__(self, content: bytes) -> None:
        if content[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"it starts with {content[:4]!r}, expected {_MAGIC!r}")
        version, self._tree, self._data, self._names = struct.unpack_from(">IIII", content, 4)
        if version not in _NODE_BYTES:
            raise ValueError(f"format version {version}, expected 1 to {max(_NODE_BYTES)}")
        self._content = content
        self._node_bytes = _NODE_BYTES[version]
        self._total = 0

    def files(self) -> dict[str, bytes]:
        """Walk through the tree; every node belongs to one folder only."""
        found: dict[str, bytes] = {}
        root = self._node(0, is_root=True)
        waiting = [(root, "", 0)]
        num_nodes = 1
        while waiting:
            node, path, depth = waiting.pop()
            if not node.flags & _IS_FOLDER:
                if path in found:
                    raise ValueError(f"two files are named '{path}'")
                found[path] = self._file(node)
                continue
            # A folder that is inside itself would never end.
            num_nodes += node.num_children
            if num_nodes > MAX_NODES or depth > MAX_DEPTH:
                raise ValueError(
                    f"it has more than {MAX_NODES} files or more than {MAX_DEPTH} levels"
                )
            for index in range(node.first, node.first + node.num_children):
                child = self._node(index)
                waiting.append((child, f"{path}/{child.name}", depth + 1))
        return found

    def _node(self, index: int, *, is_root: bool = False) -> _Node:
        offset = self._tree + index * self._node_bytes
        name_offset, flags = struct.unpack_from(">IH", self._content, offset)
        name = "" if is_root else self._read_name(name_offset)
        if flags & _IS_FOLDER:
            num_children, first = struct.unpack_from(">II", self._content, offset + 6)
            return _Node(name, flags, first, num_children)
        _, _, first = struct.unpack_from(">HHI", self._content, offset + 6)
        return _Node(name, flags, first, 0)

    def _read_name(self, offset: int) -> str:
        start = self._names + offset
        (length,) = struct.unpack_from(">H", self._content, start)
        if length > MAX_NAME_CHARS:
            raise ValueError(f"a name has {length} characters, more than {MAX_NAME_CHARS}")
        start += _NAME_HEADER_BYTES
        return self._slice(start, 2 * length).decode("utf-16-be")

    def _file(self, node: _Node) -> bytes:
        start = self._data + node.first
        (length,) = struct.unpack_from(">I", self._content, start)
        content = self._slice(start + 4, length)
        if node.flags & _IS_ZLIB:
            content = _inflate(content)
        elif node.flags & _IS_ZSTD:
            content = _decompress_zstd(content)
        self._total += len(content)
        if len(content) > MAX_FILE_BYTES or self._total > MAX_TOTAL_BYTES:
            raise ValueError(f"'{node.name}' exceeds the limit of bytes")
        return content

    def _slice(self, start: int, length: int) -> bytes:
        if start + length > len(self._content):
            raise ValueError(f"{length} bytes at {start} lie beyond the end of the file")
        return self._content[start : start + length]


def _inflate(content: bytes) -> bytes:
    """Decompress zlib data after Qt's four bytes of expected size."""
    decoder = zlib.decompressobj()
    result = decoder.decompress(content[4:], MAX_FILE_BYTES + 1)
    if not decoder.eof and len(result) <= MAX_FILE_BYTES:
        raise ValueError("compressed data end too early")
    return result


def _decompress_zstd(content: bytes) -> bytes:
    blocks: list[bytes] = []
    size = 0
    with pa.CompressedInputStream(io.BytesIO(content), "zstd") as stream:
        while size <= MAX_FILE_BYTES and (block := stream.read(_READ_BLOCK)):
            blocks.append(block)
            size += len(block)
    return b"".join(blocks)
