"""The server process from which stage runs are forked; it imports the heavy libraries once.

This module imports nothing heavy itself, so that the server can start first and load while the
command reads its configuration.
"""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

from core.process.machine import use_short_socket_folder

_PRELOADED_MODULES = ["pipeline.launchers.worker"]


def get_context() -> ForkServerContext:
    """Return the multiprocessing context whose processes are forked from the server."""
    use_short_socket_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED_MODULES)
    return context


def start_early() -> None:
    """Start the server without waiting for it; it ends with this process."""
    get_context()
    forkserver.ensure_running()
