"""Download of one remote file to local disk, with checksum verification.

Separate from the cache, which decides what to evict and which process downloads.
"""

import dataclasses
import errno
import hashlib
import math
import os
import shutil
import tempfile
from pathlib import Path

from core.errors import ConfigError
from core.process.log import get_logger
from datamodules.storage.remote import RetryConfig, StorageError, read_range, redact_url

_LOG = get_logger(__name__)
FOLDER_VARIABLE, GB_VARIABLE = "IRUDIMEN_SHARD_CACHE", "IRUDIMEN_SHARD_CACHE_GB"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """Location, size and retry policy of the shard cache."""

    folder: str = ""
    """Local folder; empty for $IRUDIMEN_SHARD_CACHE, or ~/.cache/irudimen/shards if unset."""
    max_gb: float = 0.0
    """Maximum size in gigabytes (10^9); 0 for $IRUDIMEN_SHARD_CACHE_GB, or 50 if unset."""
    chunk_bytes: int = 32 << 20
    """Number of bytes per request."""
    damaged_downloads: int = 3
    """Number of downloads with a wrong checksum before raising an error."""
    room_wait_s: float = 60.0
    """Time to wait for other processes to release files when the cache is full."""
    retry: RetryConfig = dataclasses.field(default_factory=RetryConfig)
    """Retry policy of every request."""

    def __post_init__(self) -> None:
        """Validate the values."""
        for name in ("chunk_bytes", "damaged_downloads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}, expected at least 1")
        if self.max_gb < 0:
            raise ConfigError(f"max_gb={self.max_gb}, expected 0 (default) or more")
        if self.room_wait_s < 0:
            raise ConfigError(f"room_wait_s={self.room_wait_s}, expected 0 or more")

    def resolved_folder(self) -> Path:
        """Return the folder, with defaults applied."""
        named = self.folder or os.environ.get(FOLDER_VARIABLE)
        return Path(named) if named else _default_folder()

    def max_bytes(self) -> int:
        """Return the maximum size in bytes, with defaults applied."""
        text = os.environ.get(GB_VARIABLE) or "50"
        try:
            gigabytes = self.max_gb or float(text)
        except ValueError:
            gigabytes = math.nan
        if not 0 < gigabytes < math.inf:
            raise ConfigError(f"{GB_VARIABLE}='{text}', expected a positive number of gigabytes")
        return int(gigabytes * 1e9)


def _default_folder() -> Path:
    try:
        cache = Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in some containers
        cache = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return cache / "irudimen" / "shards"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A remote file with its checksum and size, as listed in a manifest."""

    url: str
    sha256: str
    num_bytes: int


class NoRoomError(StorageError):
    """A file does not fit into the cache or on its disk."""


def download(file: RemoteFile, part: Path, config: CacheConfig) -> None:
    """Download a file into its part file; a download with a wrong checksum is repeated.

    Raises:
        StorageError: If the file can't be downloaded intact, or can't be written.
    """
    for attempt in range(1, config.damaged_downloads + 1):
        found = _download_once(file, part, config)
        if found == file.sha256:
            return
        _LOG.warning(
            "checksum mismatch of %s in download %d of %d (sha256 %s, expected %s)",
            redact_url(file.url),
            attempt,
            config.damaged_downloads,
            found,
            file.sha256,
        )
    raise StorageError(
        f"{redact_url(file.url)} has sha256 {found} after {config.damaged_downloads} downloads, "
        f"expected {file.sha256}; upload the file again, or index the new shard"
    )


def _download_once(file: RemoteFile, part: Path, config: CacheConfig) -> str:
    """Download once and return the SHA-256 of the content."""
    digest = hashlib.sha256()
    with part.open("r+b", buffering=0) as opened:
        for start in range(0, file.num_bytes, config.chunk_bytes):
            stop = min(file.num_bytes, start + config.chunk_bytes)
            content = read_range(file.url, start, stop, config.retry)
            digest.update(content)
            try:
                _write_at(opened.fileno(), content, start)
            except OSError as error:
                raise write_error(error, file, part) from error
        os.fsync(opened.fileno())
    return digest.hexdigest()


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_error(error: OSError, file: RemoteFile, part: Path) -> StorageError:
    """Return the error to raise if the part file can't be written."""
    if error.errno in _DISK_FULL:
        return disk_full(file, part.parent)
    return StorageError(f"{redact_url(file.url)} can't be written to {part}: {error}")


def disk_full(file: RemoteFile, folder: Path) -> NoRoomError:
    """Return the error to raise if the disk is full."""
    free = shutil.disk_usage(folder).free
    return NoRoomError(
        f"disk full: {redact_url(file.url)} needs {file.num_bytes} bytes in {folder}, {free} are "
        f"free; free some space, or set {FOLDER_VARIABLE} to a folder on another disk"
    )
