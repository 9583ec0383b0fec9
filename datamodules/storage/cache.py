"""A bounded cache of remote files on local disk, shared by all processes of a node.

A file's name is its sha256, so one copy serves every URL and source that lists it. All locks are
`flock`s: the kernel drops them when a process dies, however it dies.
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
from datamodules.storage.prefetch import FetchAhead
from datamodules.storage.remote import StorageError, shown

_LOG = get_logger(__name__)
_PART, _LOCKS = ".part", "locks"
_TOUCH_EVERY_S = 1.0
_ROOM_POLL_S = 0.05
_AGAIN_SOON_S = 600.0
_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class _AllInUseError(NoRoomError):
    """What fills the cache is being read or fetched."""


class ShardCache:
    """Fetches remote files once per node and hands them out while they are locked."""

    def __init__(self, config: CacheConfig | None = None) -> None:
        self.config = config or CacheConfig()
        self.folder, self.max_bytes = self.config.resolved_folder(), self.config.max_bytes()
        self._used_at: dict[str, float] = {}
        self._fetched_at: dict[str, float] = {}
        self._has_warned = False
        self._ahead: FetchAhead | None = None

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

    def fetch(self, file: RemoteFile, *, wait: bool = True) -> None:
        """Bring a file into the cache, unless it is there or another process just brought it.

        Args:
            file: What to fetch.
            wait: Wait for another process that is fetching it; else leave it to that one.

        Raises:
            StorageError: as `use`.
        """
        with self._locked(file.sha256, wait=wait) as is_mine:
            if not is_mine or self.path(file).exists():
                return
            self._warn_if_again(file)
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
        """Fetch these in the background, in this order, after what was wanted before.

        Only as many are queued as fit into half of the cache: the other half holds what is read
        now. A failure is logged and left to the reader, who tries again and then raises.
        """
        # A fork copies the object but not its thread.
        if self._ahead is None or self._ahead.process_id != os.getpid():
            fetch = partial(self.fetch, wait=False)
            self._ahead = FetchAhead(fetch, max_bytes=self.max_bytes // 2)
        self._ahead.want([file for file in files if not self.path(file).exists()])

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
        """Say once that the cache is too small: the stream is right, but slow."""
        now = time.monotonic()
        is_soon = now - self._fetched_at.get(file.sha256, -_AGAIN_SOON_S) < _AGAIN_SOON_S
        self._fetched_at[file.sha256] = now
        if is_soon and not self._has_warned:
            self._has_warned = True
            _LOG.warning(
                "%s is fetched again within minutes: the cache %s (%.3f GB) is smaller than what "
                "is read at a time; raise its max_gb or lower block_shards",
                shown(file.url),
                self.folder,
                self.max_bytes / 1e9,
            )

    def _reserve(self, file: RemoteFile) -> Path:
        """Make room and claim it; what is in use now may be free in a moment.

        Raises:
            NoRoomError: there was none for `room_wait_s`.
        """
        give_up_at = time.monotonic() + self.config.room_wait_s
        while True:
            try:
                return self._claim(file)
            except _AllInUseError:
                if time.monotonic() >= give_up_at or file.num_bytes > self.max_bytes:
                    raise
            time.sleep(_ROOM_POLL_S)

    def _claim(self, file: RemoteFile) -> Path:
        """A part that has its full size from the start."""
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
                        raise write_error(error, file, part) from error
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
            raise _AllInUseError(
                f"{shown(file.url)} needs {file.num_bytes} bytes; shard cache {self.folder} may "
                f"hold {self.max_bytes} and {used} of them are in use; raise max_gb (or "
                f"{GB_VARIABLE}) or lower block_shards"
            )
        raise disk_full(file, self.folder)

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
