"""Random access to the samples of WebDataset tars through an index.

The index of a tar is a memory-mapped structured array beside it (without pickle). Tars are read
with `pread`, so forked workers can share a file descriptor.
"""

import contextlib
import dataclasses
import io
import os
import tarfile
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from core.io.files import atomic_write_bytes
from datamodules.shards.index import INDEX_DTYPE, NO_IMAGE, ShardIndex
from datamodules.shards.tar_members import IMAGE_EXTENSIONS, MEMBER_NAME
from datamodules.storage.cache import ShardCache
from datamodules.storage.download import RemoteFile
from datamodules.storage.remote import StorageError, redact_url

_MAX_KEY_BYTES = INDEX_DTYPE["key"].itemsize
_MAX_MEMBER_BYTES = 2**31 - 1
_END_MARK_BYTES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CachedFile:
    """A remote file, and the cache through which it is read."""

    file: RemoteFile
    cache: ShardCache


def index_path(tar_path: Path) -> Path:
    """Return the path of a tar's index: `train-000000.index.npy` beside `train-000000.tar`."""
    return tar_path.with_suffix(".index.npy")


def build_index(tar_path: Path) -> np.ndarray:
    """Scan a tar once and return its index (INDEX_DTYPE, one row per sample).

    Raises:
        DataError: If the tar is incomplete, has unsafe or unknown members or duplicate keys, or if
            a sample has no JSON.
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
                    raise _sample_error(tar_path, key, "the key appears twice", "make keys unique")
                row, last_key = rows.setdefault(key, {}), key
                kind = "json" if extension == "json" else "image"
                if f"{kind}_offset" in row:
                    raise _sample_error(tar_path, key, f"two {kind} members", "keep one")
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
    """Save the index of a tar from offsets that its writer recorded, without reading the tar.

    Args:
        tar_path: Path of the tar.
        places: For each key, its `json_offset`, `json_size` and, if it has an image,
            `image_offset` and `image_size`.

    Raises:
        DataError: If there are no samples.
    """
    return _save_index(tar_path, _to_array(places, tar_path))


def check_key(tar_path: Path, key: str) -> None:
    """Check that WebDataset preserves a key.

    Raises:
        DataError: If the key contains a full stop, points outside its folder, or is too long.
    """
    match = MEMBER_NAME.fullmatch(f"{key}.json")
    if match is None or match[1] != key or key.startswith("/") or ".." in key.split("/"):
        raise _sample_error(
            tar_path, key, "a key with a full stop, or that points outside its folder", "rename it"
        )
    if len(key.encode("utf-8")) > _MAX_KEY_BYTES:
        raise _sample_error(
            tar_path, key, f"a key longer than {_MAX_KEY_BYTES} bytes", "shorten it"
        )


def _save_index(tar_path: Path, index: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    atomic_write_bytes(index_path(tar_path), buffer.getvalue())
    return index


def read_index(tar_path: Path) -> ShardIndex:
    """Load the saved index of a tar, memory-mapped.

    Raises:
        DataError: If there is no index, or if the file is not an index.
    """
    path = index_path(tar_path)
    if not path.is_file():
        raise DataError(
            f"shard {tar_path} has no index {path.name}; rebuild it from {tar_path.name}"
        )
    return ShardIndex.load(path)


class ShardReader:
    """Reader for the samples of one tar, addressed by their row in the index.

    A local tar stays open between reads. A remote tar is opened for every read, because the cache
    can't evict files that any process holds open.
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
            raise DataError(
                f"{redact_url(tar.file.url)} has no index; create one with data_prep.index"
            )
        self._index_file = index
        self._num_samples = num_samples
        """Number of samples in the manifest; 0 if unknown."""
        self.name = redact_url(tar.file.url) if isinstance(tar, CachedFile) else str(tar)
        """Path or URL, for error messages."""
        self._index: ShardIndex | None = None
        self._file: io.FileIO | None = None

    @property
    def index(self) -> ShardIndex:
        """The index of the shard, memory-mapped on first use."""
        if self._index is None:
            self._index = self._load_index()
            if self._num_samples not in (0, len(self._index)):
                raise DataError(
                    f"index of shard {self.name} has {len(self._index)} samples, its manifest "
                    f"lists {self._num_samples}; rebuild the index"
                )
        return self._index

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._num_samples or len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the location only: a spawned worker opens the files itself."""
        return {"tar": self._tar, "index": self._index_file, "num_samples": self._num_samples}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Initialise the reader in the unpickling process."""
        self.__init__(**state)  # type: ignore[misc]

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        return self.index.key(row)

    def read(self, row: int, *, with_image: bool = True) -> tuple[bytes, bytes | None]:
        """Read the record and the image of a sample.

        Returns:
            The bytes of the record, and those of the image: None if the sample has no image, b"" if
            `with_image` is False.

        Raises:
            StorageError: If the tar is shorter than its index requires.
            OSError: If the file can't be read, which may be transient.
        """
        place = self.index.offsets(row)
        record = self._pread(place.record_size, place.record_offset, row)
        if place.image_offset == NO_IMAGE:
            return record, None
        size = place.image_size if with_image else 0
        return record, self._pread(size, place.image_offset, row) if size else b""

    def announce(self, row: int, *, with_image: bool = True) -> None:
        """Start kernel read-ahead for a sample of a local tar, without waiting for it.

        The order is shuffled, so the kernel's sequential read-ahead would fetch the wrong samples.
        Errors are ignored here; `read` reports them.
        """
        if isinstance(self._tar, CachedFile):
            return  # prefetched by the shard cache
        with contextlib.suppress(OSError, DataError):
            place, descriptor = self.index.offsets(row), self._descriptor(self._tar)
            parts = [(place.record_offset, place.record_size)]
            if with_image and place.image_offset != NO_IMAGE:
                parts.append((place.image_offset, place.image_size))
            for offset, size in filter(itemgetter(1), parts):  # 0 would mean the rest of the file
                os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    @contextlib.contextmanager
    def whole(self) -> Iterator[Path]:
        """Provide the tar as a local file for the duration of the block."""
        if isinstance(self._tar, Path):
            yield self._tar
        else:
            with self._tar.cache.use(self._tar.file):
                yield self._tar.cache.path(self._tar.file)

    def close(self) -> None:
        """Close the tar and unmap the index; the next read reopens both."""
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
            raise TypeError("a remote shard needs an index file")
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
            # The shard is broken, not the sample: skipping the sample would change the stream.
            raise StorageError(
                f"shard {self.name}, sample '{self.key(row)}': expected {size} bytes at {offset}, "
                f"got {len(content)}; it was truncated: fetch or prepare it again"
            )
        return content


def _checked_name(member: tarfile.TarInfo, tar_path: Path) -> tuple[str, str]:
    name = member.name
    if not member.isreg() or member.issparse():
        raise _sample_error(
            tar_path, name, "a link, folder or special member", "use regular files only"
        )
    if name.startswith("/") or ".." in name.split("/"):
        raise _sample_error(
            tar_path, name, "the name points outside its folder", "use a relative name"
        )
    match = MEMBER_NAME.fullmatch(name)
    if match is None or match[2] not in ("json", *IMAGE_EXTENSIONS):
        known = ", ".join(("json", *IMAGE_EXTENSIONS))
        raise _sample_error(tar_path, name, "unknown kind of member", f"name it KEY.<{known}>")
    key = match[1]
    if len(key.encode("utf-8")) > _MAX_KEY_BYTES:
        raise _sample_error(
            tar_path, key, f"a key longer than {_MAX_KEY_BYTES} bytes", "shorten it"
        )
    if member.size > _MAX_MEMBER_BYTES:
        raise _sample_error(
            tar_path, key, f"a member of {member.size} bytes", "keep it under 2 GiB"
        )
    return key, match[2]


def _check_end(tar_path: Path, offset: int) -> None:
    """Check the end marker: a tar that was truncated between two members reads without an error."""
    with tar_path.open("rb") as file:
        file.seek(offset)
        mark = file.read(_END_MARK_BYTES)
    # tarfile leaves `offset` before or after the first zero block, depending on the version.
    if len(mark) < _END_MARK_BYTES // 2 or any(mark):
        raise DataError(
            f"shard {tar_path} is not a complete tar (no end-of-archive marker at byte "
            f"{offset}); fetch or prepare it again"
        )


def _to_array(rows: dict[str, dict[str, int]], tar_path: Path) -> np.ndarray:
    if not rows:
        raise DataError(f"shard {tar_path} has no samples; remove it from the manifest")
    index = np.zeros(len(rows), dtype=INDEX_DTYPE)
    for position, (key, row) in enumerate(rows.items()):
        if "json_offset" not in row:
            raise _sample_error(tar_path, key, "no .json member", "write one beside the image")
        index[position] = (
            row["json_offset"],
            row["json_size"],
            row.get("image_offset", -1),
            row.get("image_size", 0),
            key.encode("utf-8"),
        )
    return index


def _sample_error(tar_path: Path, key: str, problem: str, fix: str) -> DataError:
    return DataError(f"shard {tar_path}, sample '{key}': {problem}; {fix}")
