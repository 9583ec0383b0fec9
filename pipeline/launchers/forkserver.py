"""The server process that stage runs are forked from: it imports the heavy libraries once.

Kept apart from the launcher, which is itself behind heavy imports: the server is started first and
loads while the command reads its configuration.
"""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_PRELOAD = ["pipeline.launchers.worker"]


def context() -> ForkServerContext:
    """The context whose processes are forked from the server."""
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(_PRELOAD)
    return chosen


def start_early() -> None:
    """Start the server and return at once; it goes when this process does."""
    context()
    forkserver.ensure_running()
