"""Error handling shared by all commands, which import this module first.

While a command imports its other modules, this one handles Ctrl-C (`core.process.interrupts`) and
pauses the collection of garbage (`core.process.loading`).
"""

import contextlib
import errno
import functools
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec

from core.errors import IrudimenError
from core.process import interrupts, loading
from core.process.stop import EXIT_PREEMPTED

interrupts.install_handler()
if interrupts.is_command_process():
    loading.pause_collection()

USER_ERROR = 2
"""Exit status of a user error, the same as argparse's for an invalid argument."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_P = ParamSpec("_P")


def _report(message: str) -> int:
    from rich.console import Console  # slow to import, and only needed here
    from rich.markup import escape

    console = Console(stderr=True)
    console.print(f"[red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    return USER_ERROR


def catch_user_errors(main: Callable[_P, int]) -> Callable[_P, int]:
    """Make a command report errors of the user without a traceback and return `USER_ERROR`.

    These are every `IrudimenError`, and errors of the system about a file or folder. A command that
    is stopped by Ctrl-C says so and returns `interrupts.EXIT_INTERRUPTED`.
    """

    @functools.wraps(main)
    def command(*arguments: _P.args, **named: _P.kwargs) -> int:
        try:
            loading.resume_collection()
            interrupts.begin_work()
            _prepare_output()
            return _reporting_errors(lambda: main(*arguments, **named))
        except BaseException:  # of a cleanup, it may hide that of the signal
            if number := interrupts.stopped_by():
                return _report_stop(number)
            raise
        finally:
            interrupts.end_work()

    return command


def _prepare_output() -> None:
    """Keep every message visible, whatever the environment says about the terminal.

    Some programs start commands with a width of 0, in which no text fits. An encoding such as ASCII
    lacks letters of most languages, and no encoding has the bytes of a damaged file name.
    """
    if os.environ.get("COLUMNS", "").strip() == "0":
        del os.environ["COLUMNS"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _reporting_errors(work: Callable[[], int]) -> int:
    try:
        return work()
    except IrudimenError as error:
        if interrupts.stopped_by():
            raise
        return _report(str(error))
    except OSError as error:
        if interrupts.stopped_by():
            raise
        if error.errno in _FULL:
            where = error.filename or "a file that the command writes"
            return _report(f"{where}: {error.strerror}; free space and rerun the same command")
        if error.filename is None:  # not about a file that the user named
            raise
        return _report(f"{error.filename}: {error.strerror}; check the path and its permissions")


def _report_stop(number: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # the reader of the output may be gone
        sys.stdout.flush()
        interrupts.report_stop(number)
    return interrupts.EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_PREEMPTED
