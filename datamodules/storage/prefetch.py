"""Background fetching of remote files before they are read."""

import os
import threading
from collections.abc import Callable, Sequence

from core.process.log import get_logger
from datamodules.storage.download import RemoteFile

_LOG = get_logger(__name__)
_NUM_THREADS = 4
"""Several, because one connection rarely saturates the network."""


class BackgroundFetcher:
    """Fetches queued files on a few daemon threads of one process."""

    def __init__(self, fetch: Callable[[RemoteFile], None], *, max_bytes: int) -> None:
        self.process_id = os.getpid()
        self._fetch, self._max_bytes = fetch, max_bytes
        self._queue: dict[str, RemoteFile] = {}
        self._changed = threading.Condition()
        self._in_progress: set[str] = set()
        for _ in range(_NUM_THREADS):
            threading.Thread(target=self._run, daemon=True).start()

    def enqueue(self, files: Sequence[RemoteFile]) -> None:
        """Queue files in this order, until the queue reaches `max_bytes`."""
        with self._changed:
            room = self._max_bytes - sum(file.num_bytes for file in self._queue.values())
            for file in files:
                if file.sha256 in self._queue:
                    continue
                room -= file.num_bytes
                if room < 0:
                    break
                self._queue[file.sha256] = file
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (file := self._next()) is None:
                    self._changed.wait()
                self._in_progress.add(file.sha256)
            try:
                self._fetch(file)
            except OSError as error:
                _LOG.warning("background fetch failed: %s", error)
            with self._changed:
                self._in_progress.remove(file.sha256)
                del self._queue[file.sha256]

    def _next(self) -> RemoteFile | None:
        waiting = (name for name in self._queue if name not in self._in_progress)
        return self._queue.get(next(waiting, ""))
