"""WebDataset tars by index: where each sample lies, and reading one without a scan.

An index is a plain structured array beside the tar (no pickle, memory-mapped); a tar is read with
`pread`, so forked workers can share a descriptor.
"""

import io
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from core.files import atomic_write_bytes

IMAGE_EXTENSIONS = ("webp", "jpg", "jpeg", "png")
INDEX_DTYPE = np.dtype(
    [
        ("json_offset", "<i8"),
        ("json_size", "<i4"),
        ("image_offset", "<i8"),
        ("image_size", "<i4"),
        ("key", "S48"),
    ]
)
"""One row per sample, in the order of the tar; image_offset -1 where there is no picture."""

_MAX_KEY_BYTES = INDEX_DTYPE["key"].itemsize
_MAX_MEMBER_BYTES = 2**31 - 1
_END_MARK_BYTES = 1024
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""WebDataset's rule: the key ends at the first dot of the file name."""


def index_path(tar_path: Path) -> Path:
    """The index's place: `train-000000.index.npy` beside `train-000000.tar`."""
    return tar_path.with_suffix(".index.npy")


def build_index(tar_path: Path) -> np.ndarray:
    """Scan a tar once and return its index (INDEX_DTYPE, one row per sample).

    Raises:
        DataError: not a complete tar, an unsafe or unknown member, a repeated key, a sample
            without JSON.
    """
    if not tar_path.is_file():
        raise DataError(f"shard {tar_path} does not exist; fetch or prepare it")
    rows: dict[str, dict[str, int]] = {}
    last_key = None
    try:
        with tarfile.open(tar_path, "r:") as tar:
            for member in tar:
                key, extension = _checked_name(member, tar_path)
                if key != last_key and key in rows:
                    raise _error(
                        tar_path, key, "the key appears twice", "give every sample its own"
                    )
                row, last_key = rows.setdefault(key, {}), key
                kind = "json" if extension == "json" else "image"
                if f"{kind}_offset" in row:
                    raise _error(tar_path, key, f"two {kind} members", "keep one")
                row[f"{kind}_offset"], row[f"{kind}_size"] = member.offset_data, member.size
            _check_end(tar_path, tar.offset)
    except tarfile.TarError as error:
        raise DataError(
            f"shard {tar_path} is not a complete tar ({error}); fetch or prepare it again"
        ) from error
    return _to_array(rows, tar_path)


def write_index(tar_path: Path) -> np.ndarray:
    """Build the index of a tar, save it beside it and return it."""
    index = build_index(tar_path)
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    atomic_write_bytes(index_path(tar_path), buffer.getvalue())
    return index


def read_index(tar_path: Path) -> np.ndarray:
    """The saved index of a tar, memory-mapped.

    Raises:
        DataError: no index, or a file that is not one.
    """
    path = index_path(tar_path)
    fix = f"write it again from {tar_path.name}"
    if not path.is_file():
        raise DataError(f"shard {tar_path} has no index {path.name}; {fix}")
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"index {path} is damaged ({error}); {fix}") from error
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise DataError(f"index {path} has dtype {index.dtype}, not this format's; {fix}")
    # A plain view of the mapped file: np.memmap's own indexing is several times slower.
    return np.asarray(index)


class ShardReader:
    """Reads samples of one tar by their index row."""

    def __init__(self, tar_path: Path) -> None:
        self.path = tar_path
        self.index = read_index(tar_path)
        self._file: io.FileIO | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker opens the tar for itself."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the index again in the other process."""
        self.__init__(state["path"])  # type: ignore[misc]

    def key(self, row: int) -> str:
        """Key of a sample."""
        return bytes(self.index["key"][row]).decode("utf-8")

    def read(self, row: int, *, with_image: bool = True) -> tuple[bytes, bytes | None]:
        """JSON bytes and picture bytes of a sample (None without one, b"" if not wanted).

        Raises:
            DataError: the tar is shorter than its index says.
            OSError: the file could not be read (worth another try).
        """
        entry = self.index[row]
        record = self._pread(int(entry["json_size"]), int(entry["json_offset"]), row)
        if entry["image_offset"] < 0:
            return record, None
        size = int(entry["image_size"]) if with_image else 0
        return record, self._pread(size, int(entry["image_offset"]), row)

    def close(self) -> None:
        """Give the descriptor back; the next read opens the file again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _pread(self, size: int, offset: int, row: int) -> bytes:
        if self._file is None:
            self._file = self.path.open("rb", buffering=0)
        content = os.pread(self._file.fileno(), size, offset)
        if len(content) != size:
            raise DataError(
                f"shard {self.path}, sample '{self.key(row)}': {size} bytes expected at {offset}, "
                f"{len(content)} there; it was cut: fetch or prepare it again"
            )
        return content


def _checked_name(member: tarfile.TarInfo, tar_path: Path) -> tuple[str, str]:
    name = member.name
    if not member.isreg() or member.issparse():
        raise _error(tar_path, name, "a link, folder or special member", "keep plain files only")
    if name.startswith("/") or ".." in name.split("/"):
        raise _error(tar_path, name, "the name leaves its folder", "use a relative name")
    match = _NAME.fullmatch(name)
    if match is None or match[2] not in ("json", *IMAGE_EXTENSIONS):
        known = ", ".join(("json", *IMAGE_EXTENSIONS))
        raise _error(tar_path, name, "unknown kind of member", f"name it KEY.<{known}>")
    key = match[1]
    if len(key.encode("utf-8")) > _MAX_KEY_BYTES:
        raise _error(tar_path, key, f"a key over {_MAX_KEY_BYTES} bytes", "shorten it")
    if member.size > _MAX_MEMBER_BYTES:
        raise _error(tar_path, key, f"a member of {member.size} bytes", "keep it under 2 GiB")
    return key, match[2]


def _check_end(tar_path: Path, offset: int) -> None:
    """A tar cut between two members reads without complaint; only its end mark is missing."""
    with tar_path.open("rb") as file:
        file.seek(offset)
        mark = file.read(_END_MARK_BYTES)
    # tarfile leaves `offset` before or after the first zero block, depending on the version.
    if len(mark) < _END_MARK_BYTES // 2 or any(mark):
        raise DataError(
            f"shard {tar_path} is not a complete tar (no end mark at byte {offset}); fetch or "
            "prepare it again"
        )


def _to_array(rows: dict[str, dict[str, int]], tar_path: Path) -> np.ndarray:
    if not rows:
        raise DataError(f"shard {tar_path} holds no samples; leave it out of the manifest")
    index = np.zeros(len(rows), dtype=INDEX_DTYPE)
    for position, (key, row) in enumerate(rows.items()):
        if "json_offset" not in row:
            raise _error(tar_path, key, "no .json member", "write one beside the picture")
        index[position] = (
            row["json_offset"],
            row["json_size"],
            row.get("image_offset", -1),
            row.get("image_size", 0),
            key.encode("utf-8"),
        )
    return index


def _error(tar_path: Path, key: str, problem: str, fix: str) -> DataError:
    return DataError(f"shard {tar_path}, sample '{key}': {problem}; {fix}")
