"""A small HTTP server on loopback with range requests and configurable faults."""

import contextlib
import dataclasses
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from datamodules.storage.cache import ShardCache
from datamodules.storage.download import CacheConfig, RemoteFile

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclasses.dataclass(kw_only=True)
class HttpStore:
    """Server of a folder."""

    folder: Path
    url: str = ""
    gets: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of requests for content, by file name."""
    once: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Faults of the next requests for a file: 500, cut, short, corrupt, slow."""
    always: dict[str, str] = dataclasses.field(default_factory=dict)
    """Fault of all requests for a file: one of the above, truncated or no_range."""
    lock: Any = dataclasses.field(default_factory=threading.Lock)
    release: threading.Event = dataclasses.field(default_factory=threading.Event)
    """Event that ends `slow` answers."""

    def fault(self, name: str) -> str:
        """Return the fault of this request."""
        with self.lock:
            self.gets[name] += 1
            waiting = self.once.get(name)
            return waiting.pop(0) if waiting else self.always.get(name, "")


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[HttpStore]:
    """Serve a folder on 127.0.0.1 until the block ends."""
    store = HttpStore(folder=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": store}))
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield store
    finally:
        store.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def fetch_all(folder: str, files: Sequence[RemoteFile], started: Any) -> None:
    """Fetch into a cache in a separate process, starting when all processes are ready.

    The function is defined here so that a spawned process does not import torch.
    """
    cache = ShardCache(CacheConfig(folder=folder))
    started.wait()
    for file in files:
        cache.fetch(file)


class _Handler(BaseHTTPRequestHandler):
    store: HttpStore

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        """Suppress the log of requests."""

    def _answer(self, *, with_body: bool) -> None:
        name = self.path.lstrip("/").partition("?")[0]
        path = self.store.folder / name
        fault = self.store.fault(name) if with_body else self.store.always.get(name, "")
        if fault == "500" or not path.is_file():
            self.send_error(500 if path.is_file() else 404)
            return
        if fault == "slow":
            self.store.release.wait(60)
        content = path.read_bytes()
        content = content[: len(content) // 2] if fault == "truncated" else content
        body, status = self._part(content, fault)
        if body is None:
            self.send_error(416)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "none" if fault == "no_range" else "bytes")
        self.end_headers()
        if with_body:
            # A lost connection: fewer bytes than the header announces.
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def _part(self, content: bytes, fault: str) -> tuple[bytes | None, int]:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or fault == "no_range":
            return content, 200
        start, stop = int(match[1]), int(match[2]) + 1
        if start >= len(content):
            return None, 416
        body = content[start:stop]
        if fault == "short":
            body = body[: len(body) // 2]
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        return body, 206
