"""The data of the elastic benchmark behind a web server, read through a cache that is too small.

The server is the standard library's. Like many simple servers, it does not support ranges.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.elastic.world import SIZES
from data_prep.index.__main__ import main as index
from datamodules.storage.download import FOLDER_VARIABLE, GB_VARIABLE

_CACHE_SHARE = 0.6
"""Cache size relative to all shards, small enough that shards are evicted and fetched again."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Suppress the log of requests."""


@contextlib.contextmanager
def remote_world(shards: Path, folder: Path) -> Iterator[Path]:
    """Serve the shards on loopback and yield a folder of manifests whose shards are URLs.

    Raises:
        RuntimeError: If the shards can't be indexed.
    """
    folder.mkdir(parents=True)
    num_bytes = sum(path.stat().st_size for path in shards.glob("*.tar"))
    os.environ[FOLDER_VARIABLE] = str(folder / "cache")
    os.environ[GB_VARIABLE] = f"{_CACHE_SHARE * num_bytes / 1e9:.9f}"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(shards)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        for name in SIZES:
            tars = sorted(shards.glob(f"{name}-*.tar"))
            urls = [f"http://127.0.0.1:{server.server_address[1]}/{tar.name}" for tar in tars]
            for language in ("en", "eu") if name == "images" else ("eu",):
                arguments = ["--name", f"{name}_{language}", "--language", language]
                arguments += ["--record", f"instruct.{language}", "--out", str(folder)]
                arguments += ["--modality", "image-text" if name == "images" else "text"]
                if index([*urls, *arguments]) != 0:
                    raise RuntimeError(f"{name} can't be indexed")
        yield folder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
