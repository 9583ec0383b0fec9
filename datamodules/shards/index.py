"""On-disk index of a shard: byte offsets and sizes of each sample's record and image.

There are two memory-mapped formats, distinguished by their first bytes. The plain format, an .npy
array of INDEX_DTYPE, ships with the embedded data. The compact format supports tars of any origin
and takes 20 bytes per sample plus its key, including image sizes.

Layout of the compact format: MAGIC; the header's length (uint32); the header (JSON, padded with
spaces so that the rows start at a multiple of 64 bytes); rows (ROW_DTYPE); the end offset of each
key (uint32); all keys, concatenated. Numbers are little-endian.
"""

import dataclasses
import io
import json
import mmap
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from core.errors import DataError

INDEX_DTYPE = np.dtype(
    [
        ("json_offset", "<i8"),
        ("json_size", "<i4"),
        ("image_offset", "<i8"),
        ("image_size", "<i4"),
        ("key", "S48"),
    ]
)
"""One row per sample, in tar order; image_offset is -1 for a sample without an image."""

ROW_DTYPE = np.dtype(
    [
        ("record_block", "<u4"),
        ("record_size", "<u4"),
        ("image_block", "<u4"),
        ("image_size", "<u4"),
        ("width", "<u2"),
        ("height", "<u2"),
    ]
)
"""Offsets in tar blocks of 512 bytes (up to 2 TiB); image_block is 0 without an image."""

MAGIC = b"IRUIDX2\n"
BLOCK_BYTES = 512
_KEY_END_DTYPE = np.dtype("<u4")
_ALIGNMENT = 64
_LENGTH_BYTES = 4
NO_IMAGE = -1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IndexHeader:
    """Metadata of the shard in a compact index."""

    member: str
    """Extension of the members that hold the records, for example `json` or `txt`."""
    sha256: str
    """SHA-256 of the tar."""
    num_bytes: int
    """Size of the tar."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemberOffsets:
    """Offsets and sizes of the record and the image of a sample in the tar."""

    record_offset: int
    record_size: int
    image_offset: int
    """NO_IMAGE for a sample without an image."""
    image_size: int


class ShardIndex:
    """The index of one shard, in either format."""

    def __init__(
        self,
        rows: np.ndarray,
        keys: tuple[np.ndarray, np.ndarray] | None,
        header: IndexHeader | None,
    ) -> None:
        self.rows, self.header = rows, header
        self._keys = keys

    @classmethod
    def load(cls, path: Path) -> Self:
        """Memory-map an index file of either format.

        Raises:
            DataError: If the file does not exist or is not an index.
        """
        fix = "rebuild it from its shard"
        if not path.is_file():
            raise DataError(f"index {path} does not exist; {fix}")
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                if mapped[: len(MAGIC)] == MAGIC:
                    return cls(*_compact_parts(mapped))
                rows = _map_array(file, mapped)
        except (ValueError, EOFError, OSError, KeyError, TypeError) as error:
            raise DataError(f"index {path} is damaged ({error}); {fix}") from error
        if rows.dtype != INDEX_DTYPE or rows.ndim != 1:
            raise DataError(f"index {path} is an array of dtype {rows.dtype}, not an index; {fix}")
        return cls(rows, None, None)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    @property
    def is_compact(self) -> bool:
        """Return whether the index is in the compact format."""
        return self._keys is not None

    @property
    def member(self) -> str:
        """Extension of the members that hold the records."""
        return self.header.member if self.header is not None else "json"

    def offsets(self, row: int) -> MemberOffsets:
        """Return the member offsets of a sample."""
        entry = self.rows[row]
        if not self.is_compact:
            json_offset, json_size, image_offset, image_size, _ = entry.tolist()
            return MemberOffsets(
                record_offset=json_offset,
                record_size=json_size,
                image_offset=image_offset,
                image_size=image_size,
            )
        record_block, record_size, image_block, image_size, _, _ = entry.tolist()
        return MemberOffsets(
            record_offset=record_block * BLOCK_BYTES,
            record_size=record_size,
            image_offset=image_block * BLOCK_BYTES if image_block else NO_IMAGE,
            image_size=image_size,
        )

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        if self._keys is None:
            return bytes(self.rows["key"][row]).decode("utf-8")
        ends, text = self._keys
        return bytes(text[_key_start(ends, row) : int(ends[row])]).decode("utf-8")

    def keys(self) -> np.ndarray:
        """Return all keys (bytes), in order."""
        if self._keys is None:
            return np.asarray(self.rows["key"])
        ends, text = self._keys
        content, stops = text.tobytes(), ends.tolist()
        return np.asarray(
            [content[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)],
            dtype=np.bytes_,
        )

    def has_keys_of(self, other: "ShardIndex") -> bool:
        """Return whether two shards have the same keys in the same order."""
        if self._keys is None or other._keys is None:
            return np.array_equal(self.keys(), other.keys())
        pairs = zip(self._keys, other._keys, strict=True)
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def image_sizes(self) -> np.ndarray:
        """Return the width and height of every image, (n, 2) uint16; 0 if not recorded."""
        if not self.is_compact:
            return np.zeros((len(self), 2), dtype=np.uint16)
        return np.stack([self.rows["width"], self.rows["height"]], axis=1)

    def image_size(self, row: int) -> tuple[int, int] | None:
        """Return the width and height of a sample's image; None if not recorded."""
        if not self.is_compact:
            return None
        width, height = int(self.rows["width"][row]), int(self.rows["height"][row])
        return (width, height) if width and height else None

    def to_bytes(self) -> bytes:
        """Serialize the index to the content of its file."""
        buffer = io.BytesIO()
        if self._keys is None or self.header is None:
            np.save(buffer, self.rows, allow_pickle=False)
            return buffer.getvalue()
        ends, text = self._keys
        counts = {"num_samples": len(self), "key_bytes": len(text)}
        header = json.dumps({**dataclasses.asdict(self.header), **counts}).encode("utf-8")
        prefix = len(MAGIC) + _LENGTH_BYTES
        header += b" " * (-(prefix + len(header)) % _ALIGNMENT)
        length = len(header).to_bytes(_LENGTH_BYTES, "little")
        parts = (self.rows.tobytes(), ends.astype(_KEY_END_DTYPE).tobytes(), text.tobytes())
        return b"".join((MAGIC, length, header, *parts))


def compact_index(
    rows: list[tuple[int, int, int, int, int, int]], keys: list[str], header: IndexHeader
) -> ShardIndex:
    """Create a compact index from rows with the fields of ROW_DTYPE."""
    encoded = [key.encode("utf-8") for key in keys]
    ends = np.cumsum([len(key) for key in encoded], dtype=np.uint64)
    text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return ShardIndex(np.asarray(rows, dtype=ROW_DTYPE), (ends.astype(np.uint32), text), header)


def _key_start(ends: np.ndarray, row: int) -> int:
    row = row if row >= 0 else row + len(ends)
    return int(ends[row - 1]) if row else 0


def _compact_parts(
    mapped: mmap.mmap,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], IndexHeader]:
    """Return views of a memory-mapped compact index; raise ValueError if it is incomplete."""
    start = len(MAGIC) + _LENGTH_BYTES
    offset = start + int.from_bytes(mapped[len(MAGIC) : start], "little")
    raw: dict[str, Any] = json.loads(mapped[start:offset])
    num_samples, key_bytes = int(raw.pop("num_samples")), int(raw.pop("key_bytes"))
    arrays = []
    for dtype, count in (
        (ROW_DTYPE, num_samples),
        (_KEY_END_DTYPE, num_samples),
        (np.dtype(np.uint8), key_bytes),
    ):
        arrays.append(np.frombuffer(mapped, dtype=dtype, count=count, offset=offset))
        offset += count * dtype.itemsize
    rows, ends, text = arrays
    if offset != len(mapped) or (num_samples and int(ends[-1]) != key_bytes):
        raise ValueError("the sizes of its sections are inconsistent")
    return rows, (ends, text), IndexHeader(**raw)


def _map_array(file: BinaryIO, mapped: mmap.mmap) -> np.ndarray:
    """Return the .npy array of a file as a view of its memory map."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"array version {version}")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or is_fortran:
        raise ValueError(f"dtype {dtype}")
    count, offset = int(np.prod(shape)), file.tell()
    return np.frombuffer(mapped, dtype=dtype, count=count, offset=offset).reshape(shape)
