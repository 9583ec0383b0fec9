"""The server process from which stage runs are forked; it imports the heavy libraries once.

This module imports nothing heavy itself, so that the server can start first and load while the
command reads its configuration.
"""

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

from core.process.interrupts import without_interrupts
from core.process.machine import use_short_socket_folder
from pipeline.launchers.environment import allocator_settings

_PRELOADED_MODULES = ["pipeline.launchers.worker"]


def get_context() -> ForkServerContext:
    """Return the multiprocessing context whose processes are forked from the server.

    The server is started without waiting for it, and ends with this process. Ctrl-C does not reach
    the server and the processes: the launcher asks them to save.
    """
    use_short_socket_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED_MODULES)
    settings = allocator_settings()
    with without_interrupts():
        os.environ.update(settings)  # read when a program starts, so not by this process
        forkserver.ensure_running()
    for name in settings:
        del os.environ[name]
    return context
