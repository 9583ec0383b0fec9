"""A bounded cache of remote files on local disk, shared by all processes of a node.

A file's name is its sha256, so one copy serves every URL and source that lists it. All locks are
`flock`s: the kernel drops them when a process dies, however it dies.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import io
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from core.log import get_logger
from datamodules.remote import RetryConfig, StorageError, read_range, shown

_LOG = get_logger(__name__)
_FOLDER_VARIABLE, _GB_VARIABLE = "IRUDIMEN_SHARD_CACHE", "IRUDIMEN_SHARD_CACHE_GB"
_PART, _LOCKS = ".part", "locks"
_TOUCH_EVERY_S = 1.0
_AGAIN_SOON_S = 600.0
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


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
    retry: RetryConfig = dataclasses.field(default_factory=RetryConfig)
    """Patience with every request."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("chunk_bytes", "damaged_downloads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}, expected at least 1")
        if self.max_gb < 0:
            raise ConfigError(f"max_gb={self.max_gb}, expected 0 (default) or more")

    def resolved_folder(self) -> Path:
        """The folder in force."""
        default = Path.home() / ".cache" / "irudimen" / "shards"
        return Path(self.folder or os.environ.get(_FOLDER_VARIABLE) or default)

    def max_bytes(self) -> int:
        """The limit in force."""
        text = os.environ.get(_GB_VARIABLE) or "50"
        try:
            gigabytes = self.max_gb or float(text)
        except ValueError as error:
            raise ConfigError(f"{_GB_VARIABLE}='{text}' is no number of gigabytes") from error
        return int(gigabytes * 1e9)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file as a manifest lists it."""

    url: str
    sha256: str
    num_bytes: int


class NoRoomError(StorageError):
    """The cache or its disk can't take a file."""


class ShardCache:
    """Fetches remote files once per node and hands them out while they are locked."""

    def __init__(self, config: CacheConfig | None = None) -> None:
        self.config = config or CacheConfig()
        self.folder, self.max_bytes = self.config.resolved_folder(), self.config.max_bytes()
        self._used_at: dict[str, float] = {}
        self._fetched_at: dict[str, float] = {}
        self._wanted: dict[str, RemoteFile] = {}
        self._wanted_changed = threading.Condition()
        self._thread: tuple[int, threading.Thread] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the same folder; locks and threads stay here."""
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the folder again in the other process."""
        self.__init__(state["config"])  # type: ignore[misc]

    def path(self, file: RemoteFile) -> Path:
        """Where a file lies once it is fetched."""
        return self.folder / file.sha256

    @contextlib.contextmanager
    def use(self, file: RemoteFile) -> Iterator[io.FileIO]:
        """Open a file, fetched first if need be; nobody evicts it before the block ends.

        Raises:
            StorageError: it can't be fetched whole, or there is no room for it.
        """
        opened = self._open_shared(file)
        while opened is None:
            self.fetch(file)
            opened = self._open_shared(file)
        try:
            self._touch(file)
            yield opened
        finally:
            _release(opened)

    def fetch(self, file: RemoteFile) -> None:
        """Bring a file into the cache, unless it is there or another process just brought it.

        Raises:
            StorageError: as `use`.
        """
        with self._locked(file.sha256) as is_mine:
            if not is_mine or self.path(file).exists():
                return
            self._warn_if_again(file)
            part = self._reserve(file)
            try:
                _download(file, part, self.config)
                part.replace(self.path(file))
            except StorageError as error:
                expected = f"the manifest lists {file.num_bytes} bytes, sha256 {file.sha256}"
                raise type(error)(f"{error} ({expected})") from error
            finally:
                part.unlink(missing_ok=True)

    def prefetch(self, files: Sequence[RemoteFile]) -> None:
        """Fetch these in the background, in this order, after what was wanted before.

        Only as many are queued as fit into half of the cache: the other half holds what is read
        now. A failure is logged and left to the reader, who tries again and then raises.
        """
        with self._wanted_changed:
            room = self.max_bytes // 2 - sum(file.num_bytes for file in self._wanted.values())
            for file in files:
                room -= file.num_bytes
                if room < 0:
                    break
                if not self.path(file).exists():
                    self._wanted[file.sha256] = file
            self._wanted_changed.notify()
            # A fork copies the object but not the thread.
            if self._wanted and (self._thread is None or self._thread[0] != os.getpid()):
                thread = threading.Thread(target=self._fetch_wanted, daemon=True)
                self._thread = (os.getpid(), thread)
                thread.start()

    def _fetch_wanted(self) -> None:
        while True:
            with self._wanted_changed:
                while not self._wanted:
                    self._wanted_changed.wait()
                file = self._wanted[next(iter(self._wanted))]
            try:
                self.fetch(file)
            except OSError as error:
                _LOG.warning("not fetched ahead: %s", error)
            with self._wanted_changed:
                self._wanted.pop(file.sha256, None)

    def _open_shared(self, file: RemoteFile) -> io.FileIO | None:
        """Open and lock for reading; None if it isn't there (any more)."""
        try:
            opened = io.FileIO(self.path(file))
        except FileNotFoundError:
            return None
        fcntl.flock(opened, fcntl.LOCK_SH)
        # Evicted between opening and locking: its bytes are there, its place in the budget isn't.
        if os.fstat(opened.fileno()).st_nlink == 0:
            _release(opened)
            return None
        return opened

    @contextlib.contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of a name; False if it is taken and `wait` is False."""
        (locks := self.folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        with (locks / name).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                # Explicitly: closing would leave it to a child that was forked meanwhile.
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _touch(self, file: RemoteFile) -> None:
        """Note the use, for the order of eviction; the file's own time is seen by all processes."""
        now = time.monotonic()
        if now - self._used_at.get(file.sha256, -_TOUCH_EVERY_S) >= _TOUCH_EVERY_S:
            self._used_at[file.sha256] = now
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path(file))

    def _warn_if_again(self, file: RemoteFile) -> None:
        now = time.monotonic()
        if now - self._fetched_at.get(file.sha256, -_AGAIN_SOON_S) < _AGAIN_SOON_S:
            _LOG.warning(
                "%s is fetched again within minutes: the cache %s (%.3f GB) is smaller than what "
                "is read at a time; raise its max_gb or lower block_shards",
                shown(file.url),
                self.folder,
                self.max_bytes / 1e9,
            )
        self._fetched_at[file.sha256] = now

    def _reserve(self, file: RemoteFile) -> Path:
        """Make room and claim it: the part has its full size from the start."""
        part = self.path(file).with_suffix(_PART)
        with self._locked("room"):
            part.unlink(missing_ok=True)
            self._make_room(file)
            with part.open("wb") as opened:
                try:
                    os.posix_fallocate(opened.fileno(), 0, max(1, file.num_bytes))
                except OSError as error:
                    if error.errno not in _NO_PREALLOCATION:
                        part.unlink()
                        raise _write_error(error, file, part) from error
                os.truncate(opened.fileno(), file.num_bytes)
        return part

    def _make_room(self, file: RemoteFile) -> None:
        """Evict what was not used for longest until the file fits.

        Raises:
            NoRoomError: it can't fit beside what is in use.
        """
        found = [path for path in self.folder.iterdir() if path.is_file()]
        sizes = {path: path.stat() for path in found if path.exists()}
        used = sum(stat.st_size for stat in sizes.values())
        for path in sorted(sizes, key=lambda path: sizes[path].st_mtime_ns):
            if self._fits(file, used):
                return
            if self._evict(path):
                used -= sizes[path].st_size
        if self._fits(file, used):
            return
        if used + file.num_bytes > self.max_bytes:
            raise NoRoomError(
                f"{shown(file.url)} needs {file.num_bytes} bytes; shard cache {self.folder} may "
                f"hold {self.max_bytes} and {used} of them are in use; raise max_gb (or "
                f"{_GB_VARIABLE}) or lower block_shards"
            )
        raise _disk_full(file, self.folder)

    def _fits(self, file: RemoteFile, used: int) -> bool:
        is_within = used + file.num_bytes <= self.max_bytes
        return is_within and shutil.disk_usage(self.folder).free >= file.num_bytes

    def _evict(self, path: Path) -> bool:
        """Remove a file that nobody reads, or a part whose download died."""
        if path.suffix == _PART:
            with self._locked(path.stem, wait=False) as is_mine:
                if is_mine:
                    path.unlink(missing_ok=True)
                return is_mine
        with contextlib.suppress(FileNotFoundError), path.open("rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            path.unlink()
            fcntl.flock(opened, fcntl.LOCK_UN)
        return True


def _release(opened: io.FileIO) -> None:
    fcntl.flock(opened, fcntl.LOCK_UN)
    opened.close()


def _download(file: RemoteFile, part: Path, config: CacheConfig) -> None:
    """Fill the part; a damaged download is repeated, then an error."""
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
                raise _write_error(error, file, part) from error
        os.fsync(opened.fileno())
    return digest.hexdigest()


def _write(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _write_error(error: OSError, file: RemoteFile, part: Path) -> StorageError:
    if error.errno in _DISK_FULL:
        return _disk_full(file, part.parent)
    return StorageError(f"{shown(file.url)} can't be written to {part}: {error}")


def _disk_full(file: RemoteFile, folder: Path) -> NoRoomError:
    free = shutil.disk_usage(folder).free
    return NoRoomError(
        f"disk full: {shown(file.url)} needs {file.num_bytes} bytes in {folder}, {free} are free; "
        f"free some, or set {_FOLDER_VARIABLE} to a folder on another disk"
    )
