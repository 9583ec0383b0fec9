"""Fetches remote files in the background, before they are read."""

import os
import threading
from collections.abc import Callable, Sequence

from core.process.log import get_logger
from datamodules.storage.download import RemoteFile

_LOG = get_logger(__name__)
_THREADS = 4
"""One connection seldom fills a line."""


class FetchAhead:
    """Some threads of one process, and what they shall fetch."""

    def __init__(self, fetch: Callable[[RemoteFile], None], *, max_bytes: int) -> None:
        self.process_id = os.getpid()
        self._fetch, self._max_bytes = fetch, max_bytes
        self._wanted: dict[str, RemoteFile] = {}
        self._changed = threading.Condition()
        self._under_way: set[str] = set()
        for _ in range(_THREADS):
            threading.Thread(target=self._run, daemon=True).start()

    def want(self, files: Sequence[RemoteFile]) -> None:
        """Queue files, in this order, as long as all that is queued fits into `max_bytes`."""
        with self._changed:
            room = self._max_bytes - sum(file.num_bytes for file in self._wanted.values())
            for file in files:
                if file.sha256 in self._wanted:
                    continue
                room -= file.num_bytes
                if room < 0:
                    break
                self._wanted[file.sha256] = file
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (file := self._next()) is None:
                    self._changed.wait()
                self._under_way.add(file.sha256)
            try:
                self._fetch(file)
            except OSError as error:
                _LOG.warning("not fetched ahead: %s", error)
            with self._changed:
                self._under_way.remove(file.sha256)
                del self._wanted[file.sha256]

    def _next(self) -> RemoteFile | None:
        waiting = (name for name in self._wanted if name not in self._under_way)
        return self._wanted.get(next(waiting, ""))
