"""WebDataset tars by index: where each sample lies, and reading one without a scan.

An index is a plain structured array beside the tar (no pickle, memory-mapped); a tar is read with
`pread`, so forked workers can share a descriptor.
"""

import contextlib
import dataclasses
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from core.io.files import atomic_write_bytes
from datamodules.shards.index import INDEX_DTYPE, NO_PLACE, ShardIndex
from datamodules.shards.tar_scan import IMAGE_EXTENSIONS, MEMBER_NAME
from datamodules.storage.cache import ShardCache
from datamodules.storage.download import RemoteFile
from datamodules.storage.remote import StorageError, shown

_MAX_KEY_BYTES = INDEX_DTYPE["key"].itemsize
_MAX_MEMBER_BYTES = 2**31 - 1
_END_MARK_BYTES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CachedFile:
    """A remote file and the cache that it is read through."""

    file: RemoteFile
    cache: ShardCache


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
    return _save_index(tar_path, build_index(tar_path))


def write_known_index(tar_path: Path, places: dict[str, dict[str, int]]) -> np.ndarray:
    """Save the index of a tar whose writer knows where everything lies; nothing is read.

    Args:
        tar_path: the tar.
        places: key -> `json_offset`, `json_size` and, with an image, `image_offset`, `image_size`.

    Raises:
        DataError: no samples.
    """
    return _save_index(tar_path, _to_array(places, tar_path))


def check_key(tar_path: Path, key: str) -> None:
    """Raise DataError for a key that WebDataset would cut, that leaves its folder, or is long."""
    match = MEMBER_NAME.fullmatch(f"{key}.json")
    if match is None or match[1] != key or key.startswith("/") or ".." in key.split("/"):
        raise _error(
            tar_path, key, "a key with a full stop, or that leaves its folder", "rename it"
        )
    if len(key.encode("utf-8")) > _MAX_KEY_BYTES:
        raise _error(tar_path, key, f"a key over {_MAX_KEY_BYTES} bytes", "shorten it")


def _save_index(tar_path: Path, index: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    atomic_write_bytes(index_path(tar_path), buffer.getvalue())
    return index


def read_index(tar_path: Path) -> ShardIndex:
    """The saved index of a tar, memory-mapped.

    Raises:
        DataError: no index, or a file that is not one.
    """
    path = index_path(tar_path)
    if not path.is_file():
        raise DataError(
            f"shard {tar_path} has no index {path.name}; write it again from {tar_path.name}"
        )
    return ShardIndex.load(path)


class ShardReader:
    """Reads samples of one tar by their index row.

    A local tar stays open between reads. A remote one is opened for every read, because the cache
    must not evict what is open and can't ask other processes to let go.
    """

    def __init__(
        self,
        tar: Path | CachedFile,
        index: Path | CachedFile | None = None,
        *,
        num_samples: int = 0,
    ) -> None:
        self._tar = tar
        if index is None and isinstance(tar, CachedFile):
            raise DataError(f"{shown(tar.file.url)} has no index; write one with data_prep.index")
        self._index_file = index
        self._num_samples = num_samples
        """As the manifest says; 0 if there is none."""
        self.name = shown(tar.file.url) if isinstance(tar, CachedFile) else str(tar)
        """Path or URL, for messages."""
        self._index: ShardIndex | None = None
        self._file: io.FileIO | None = None

    @property
    def index(self) -> ShardIndex:
        """Where the samples lie; mapped on first use."""
        if self._index is None:
            self._index = self._load_index()
            if self._num_samples not in (0, len(self._index)):
                raise DataError(
                    f"index of shard {self.name} has {len(self._index)} samples, its manifest says "
                    f"{self._num_samples}; write the index again"
                )
        return self._index

    def __len__(self) -> int:
        """Number of samples."""
        return self._num_samples or len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker opens the tar for itself."""
        return {"tar": self._tar, "index": self._index_file, "num_samples": self._num_samples}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the index again in the other process."""
        self.__init__(**state)  # type: ignore[misc]

    def key(self, row: int) -> str:
        """Key of a sample."""
        return self.index.key(row)

    def read(self, row: int, *, with_image: bool = True) -> tuple[bytes, bytes | None]:
        """Record bytes and image bytes of a sample (None without one, b"" if not wanted).

        Raises:
            StorageError: the tar is shorter than its index says.
            OSError: the file could not be read, which may be worth another try.
        """
        place = self.index.place(row)
        record = self._pread(place.record_size, place.record_offset, row)
        if place.image_offset == NO_PLACE:
            return record, None
        size = place.image_size if with_image else 0
        return record, self._pread(size, place.image_offset, row) if size else b""

    def announce(self, row: int, *, with_image: bool = True) -> None:
        """Ask the system to read a sample of a local tar into memory, without waiting for it.

        Order is shuffled, so the system's own read-ahead would fetch what nobody wants next. What
        is wrong with a file is left to `read`, which says so.
        """
        if isinstance(self._tar, CachedFile):
            return  # just fetched, or about to be
        with contextlib.suppress(OSError, DataError):
            place, descriptor = self.index.place(row), self._descriptor(self._tar)
            parts = [(place.record_offset, place.record_size)]
            if with_image and place.image_offset != NO_PLACE:
                parts.append((place.image_offset, place.image_size))
            for offset, size in parts:
                os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    @contextlib.contextmanager
    def whole(self) -> Iterator[Path]:
        """The tar as a file on this machine, for as long as the block lasts."""
        if isinstance(self._tar, Path):
            yield self._tar
        else:
            with self._tar.cache.use(self._tar.file):
                yield self._tar.cache.path(self._tar.file)

    def close(self) -> None:
        """Give descriptor and index back; the next read opens the files again."""
        self._index = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _load_index(self) -> ShardIndex:
        if isinstance(self._index_file, CachedFile):
            with self._index_file.cache.use(self._index_file.file) as opened:
                return ShardIndex.load(Path(str(opened.name)))
        if self._index_file is not None:
            return ShardIndex.load(self._index_file)
        if isinstance(self._tar, CachedFile):
            raise TypeError("a remote shard's index is given")
        return read_index(self._tar)

    def _descriptor(self, tar: Path) -> int:
        if self._file is None:
            self._file = io.FileIO(tar)
        return self._file.fileno()

    def _pread(self, size: int, offset: int, row: int) -> bytes:
        if isinstance(self._tar, CachedFile):
            with self._tar.cache.use(self._tar.file) as opened:
                content = os.pread(opened.fileno(), size, offset)
        else:
            content = os.pread(self._descriptor(self._tar), size, offset)
        if len(content) != size:
            # Not the sample is broken but the shard: to leave it out would change the stream.
            raise StorageError(
                f"shard {self.name}, sample '{self.key(row)}': {size} bytes expected at {offset}, "
                f"{len(content)} there; it was cut: fetch or prepare it again"
            )
        return content


def _checked_name(member: tarfile.TarInfo, tar_path: Path) -> tuple[str, str]:
    name = member.name
    if not member.isreg() or member.issparse():
        raise _error(tar_path, name, "a link, folder or special member", "keep plain files only")
    if name.startswith("/") or ".." in name.split("/"):
        raise _error(tar_path, name, "the name leaves its folder", "use a relative name")
    match = MEMBER_NAME.fullmatch(name)
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
            raise _error(tar_path, key, "no .json member", "write one beside the image")
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
