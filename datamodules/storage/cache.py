"""A bounded on-disk cache of remote files, shared by all processes of a node.

Files are named by their SHA-256, so one copy serves every URL and source that lists it. All locks
are `flock`s, which the kernel releases when a process dies for any reason.
"""

import contextlib
import errno
import fcntl
import io
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.process.log import get_logger
from datamodules.storage.download import (
    GB_VARIABLE,
    CacheConfig,
    NoRoomError,
    RemoteFile,
    disk_full,
    download,
    write_error,
)
from datamodules.storage.prefetch import BackgroundFetcher
from datamodules.storage.remote import StorageError, redact_url

_LOG = get_logger(__name__)
_PART_SUFFIX, _LOCKS_FOLDER = ".part", "locks"
_TOUCH_EVERY_S = 1.0
_ROOM_POLL_S = 0.05
_REFETCH_WARNING_S = 600.0
_PREALLOCATION_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class _AllInUseError(NoRoomError):
    """All files in the cache are being read or fetched."""


class ShardCache:
    """Fetches remote files once per node, and protects them from eviction while they are used."""

    def __init__(self, config: CacheConfig | None = None) -> None:
        self.config = config or CacheConfig()
        self.folder, self.max_bytes = self.config.resolved_folder(), self.config.max_bytes()
        self._used_at: dict[str, float] = {}
        self._fetched_at: dict[str, float] = {}
        self._has_warned = False
        self._fetcher: BackgroundFetcher | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the configuration only: locks and threads belong to this process."""
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the same folder in the unpickling process."""
        self.__init__(state["config"])  # type: ignore[misc]

    def path(self, file: RemoteFile) -> Path:
        """Return the path of a file in the cache."""
        return self.folder / file.sha256

    @contextlib.contextmanager
    def use(self, file: RemoteFile) -> Iterator[io.FileIO]:
        """Open a file, fetching it if necessary; it is not evicted before the block ends.

        Raises:
            StorageError: If the file can't be fetched, or does not fit into the cache.
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

    def fetch(self, file: RemoteFile, *, wait: bool = True) -> None:
        """Fetch a file into the cache unless it is there already.

        Args:
            file: The file to fetch.
            wait: If another process is fetching the file, wait for it instead of returning.

        Raises:
            StorageError: If the file can't be fetched, or does not fit into the cache.
        """
        with self._locked(file.sha256, wait=wait) as is_locked:
            if not is_locked or self.path(file).exists():
                return
            self._warn_if_refetched(file)
            part = self._reserve(file)
            try:
                download(file, part, self.config)
                part.replace(self.path(file))
            except StorageError as error:
                expected = f"the manifest lists {file.num_bytes} bytes, sha256 {file.sha256}"
                raise type(error)(f"{error} ({expected})") from error
            finally:
                part.unlink(missing_ok=True)

    def prefetch(self, files: Sequence[RemoteFile]) -> None:
        """Queue files to be fetched in the background, in this order.

        At most half of the cache is queued, because the other half holds the files that are being
        read. Failures are logged; reading the file retries the download and raises the error.
        """
        # A fork copies the object but not its threads.
        if self._fetcher is None or self._fetcher.process_id != os.getpid():
            fetch = partial(self.fetch, wait=False)
            self._fetcher = BackgroundFetcher(fetch, max_bytes=self.max_bytes // 2)
        self._fetcher.enqueue([file for file in files if not self.path(file).exists()])

    def _open_shared(self, file: RemoteFile) -> io.FileIO | None:
        """Open a file with a shared lock; return None if it is not in the cache."""
        try:
            opened = io.FileIO(self.path(file))
        except FileNotFoundError:
            return None
        fcntl.flock(opened, fcntl.LOCK_SH)
        # Evicted between opening and locking: the cache no longer accounts for its bytes.
        if os.fstat(opened.fileno()).st_nlink == 0:
            _release(opened)
            return None
        return opened

    @contextlib.contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a named lock; yield False if it is taken and `wait` is False."""
        (locks := self.folder / _LOCKS_FOLDER).mkdir(parents=True, exist_ok=True)
        with (locks / name).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                # Unlock explicitly: after a fork, closing would leave the lock with the child.
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _touch(self, file: RemoteFile) -> None:
        """Record the use in the file's modification time, which orders evictions on the node."""
        now = time.monotonic()
        if now - self._used_at.get(file.sha256, -_TOUCH_EVERY_S) >= _TOUCH_EVERY_S:
            self._used_at[file.sha256] = now
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path(file))

    def _warn_if_refetched(self, file: RemoteFile) -> None:
        """Warn once that the cache is too small, which makes reading slow but not incorrect."""
        now = time.monotonic()
        is_recent = (
            now - self._fetched_at.get(file.sha256, -_REFETCH_WARNING_S) < _REFETCH_WARNING_S
        )
        self._fetched_at[file.sha256] = now
        if is_recent and not self._has_warned:
            self._has_warned = True
            _LOG.warning(
                "%s was evicted and is fetched again within minutes: the cache %s (%.3f GB) is "
                "smaller than the working set; raise max_gb or lower block_shards",
                redact_url(file.url),
                self.folder,
                self.max_bytes / 1e9,
            )

    def _reserve(self, file: RemoteFile) -> Path:
        """Reserve disk space for a file, waiting for files in use to be released.

        Raises:
            NoRoomError: If there is no room within `room_wait_s`.
        """
        deadline = time.monotonic() + self.config.room_wait_s
        while True:
            try:
                return self._claim(file)
            except _AllInUseError:
                if time.monotonic() >= deadline or file.num_bytes > self.max_bytes:
                    raise
            time.sleep(_ROOM_POLL_S)

    def _claim(self, file: RemoteFile) -> Path:
        """Create the part file with its full size."""
        part = self.path(file).with_suffix(_PART_SUFFIX)
        with self._locked("room"):
            part.unlink(missing_ok=True)
            self._make_room(file)
            with part.open("wb") as opened:
                try:
                    os.posix_fallocate(opened.fileno(), 0, max(1, file.num_bytes))
                except OSError as error:
                    if error.errno not in _PREALLOCATION_UNSUPPORTED:
                        part.unlink()
                        raise write_error(error, file, part) from error
                os.truncate(opened.fileno(), file.num_bytes)
        return part

    def _make_room(self, file: RemoteFile) -> None:
        """Evict the least recently used files until the file fits.

        Raises:
            NoRoomError: If it does not fit beside the files in use.
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
            raise _AllInUseError(
                f"{redact_url(file.url)} needs {file.num_bytes} bytes; shard cache {self.folder} "
                f"is limited to {self.max_bytes}, of which {used} are in use; raise max_gb (or "
                f"{GB_VARIABLE}) or lower block_shards"
            )
        raise disk_full(file, self.folder)

    def _fits(self, file: RemoteFile, used: int) -> bool:
        is_within = used + file.num_bytes <= self.max_bytes
        return is_within and shutil.disk_usage(self.folder).free >= file.num_bytes

    def _evict(self, path: Path) -> bool:
        """Remove an unused file, or the part of a download that died; return whether it worked."""
        if path.suffix == _PART_SUFFIX:
            with self._locked(path.stem, wait=False) as is_locked:
                if is_locked:
                    path.unlink(missing_ok=True)
                return is_locked
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
