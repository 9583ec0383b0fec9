"""Brings one remote file whole onto the local disk, or says why not.

Kept apart from the cache, which decides what is kept and who waits for whom.
"""

import dataclasses
import errno
import hashlib
import os
import shutil
from pathlib import Path

from core.errors import ConfigError
from core.process.log import get_logger
from datamodules.storage.remote import RetryConfig, StorageError, read_range, shown

_LOG = get_logger(__name__)
FOLDER_VARIABLE, GB_VARIABLE = "IRUDIMEN_SHARD_CACHE", "IRUDIMEN_SHARD_CACHE_GB"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """Where remote shards are kept, and how many of them."""

    folder: str = ""
    """Local folder; empty for $IRUDIMEN_SHARD_CACHE, or else ~/.cache/irudimen/shards."""
    max_gb: float = 0.0
    """Most gigabytes (10^9) in it; 0 for $IRUDIMEN_SHARD_CACHE_GB, or else 50."""
    chunk_bytes: int = 32 << 20
    """Bytes of one request."""
    damaged_downloads: int = 3
    """So many downloads with a wrong checksum are an error."""
    room_wait_s: float = 60.0
    """How long to wait for other processes to finish with what fills the cache."""
    retry: RetryConfig = dataclasses.field(default_factory=RetryConfig)
    """Patience with every request."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("chunk_bytes", "damaged_downloads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}, expected at least 1")
        if self.max_gb < 0:
            raise ConfigError(f"max_gb={self.max_gb}, expected 0 (default) or more")
        if self.room_wait_s < 0:
            raise ConfigError(f"room_wait_s={self.room_wait_s}, expected 0 or more")

    def resolved_folder(self) -> Path:
        """The folder in force."""
        default = Path.home() / ".cache" / "irudimen" / "shards"
        return Path(self.folder or os.environ.get(FOLDER_VARIABLE) or default)

    def max_bytes(self) -> int:
        """The limit in force."""
        text = os.environ.get(GB_VARIABLE) or "50"
        try:
            gigabytes = self.max_gb or float(text)
        except ValueError as error:
            raise ConfigError(f"{GB_VARIABLE}='{text}' is no number of gigabytes") from error
        return int(gigabytes * 1e9)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file as a manifest lists it."""

    url: str
    sha256: str
    num_bytes: int


class NoRoomError(StorageError):
    """The cache or its disk can't take a file."""


def download(file: RemoteFile, part: Path, config: CacheConfig) -> None:
    """Fill the part; a damaged download is repeated, then an error.

    Raises:
        StorageError: it did not come whole, or can't be written.
    """
    for attempt in range(1, config.damaged_downloads + 1):
        found = _download_once(file, part, config)
        if found == file.sha256:
            return
        _LOG.warning(
            "%s came damaged (sha256 %s, expected %s), download %d of %d",
            shown(file.url),
            found,
            file.sha256,
            attempt,
            config.damaged_downloads,
        )
    raise StorageError(
        f"{shown(file.url)} came with sha256 {found}, {config.damaged_downloads} times over; it "
        "was damaged or replaced: upload it again, or index the new shard"
    )


def _download_once(file: RemoteFile, part: Path, config: CacheConfig) -> str:
    """Returns the sha256 of what came."""
    digest = hashlib.sha256()
    with part.open("r+b", buffering=0) as opened:
        for start in range(0, file.num_bytes, config.chunk_bytes):
            stop = min(file.num_bytes, start + config.chunk_bytes)
            content = read_range(file.url, start, stop, config.retry)
            digest.update(content)
            try:
                _write(opened.fileno(), content, start)
            except OSError as error:
                raise write_error(error, file, part) from error
        os.fsync(opened.fileno())
    return digest.hexdigest()


def _write(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_error(error: OSError, file: RemoteFile, part: Path) -> StorageError:
    """What to raise where the part can't be written."""
    if error.errno in _DISK_FULL:
        return disk_full(file, part.parent)
    return StorageError(f"{shown(file.url)} can't be written to {part}: {error}")


def disk_full(file: RemoteFile, folder: Path) -> NoRoomError:
    """What to raise where the disk is full."""
    free = shutil.disk_usage(folder).free
    return NoRoomError(
        f"disk full: {shown(file.url)} needs {file.num_bytes} bytes in {folder}, {free} are free; "
        f"free some, or set {FOLDER_VARIABLE} to a folder on another disk"
    )
