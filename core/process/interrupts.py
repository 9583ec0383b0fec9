"""Signals of a command: Ctrl-C ends it at any moment with one line and exit status 130.

The effect depends on what the command does:

* While it imports its libraries, it ends at once.
* In its main function, the first signal ends its child processes and raises `CommandStopped`, which
  closes files and pools on its way; another one, or a delay, ends the process at once.
* While stage runs train (`core.process.stop.StopFlag.listening`), the first signal lets them save.

A terminal sends Ctrl-C to child processes as well; those that Python forks leave it to the parent.
"""

import atexit
import contextlib
import enum
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import psutil

EXIT_INTERRUPTED = 128 + signal.SIGINT
"""Exit status of a command that Ctrl-C ended (130), as of a shell."""
_COMMAND_PACKAGES = ("data_prep", "evaluation", "experiments")
_SHOW_CURSOR = b"\x1b[?25h"
_HELPER = "resource_tracker"
"""Python's process that cleans up after the others; it exits on its own."""
_CLEANUP_S = 10.0
"""Time in which a stopped command may close its files and threads."""
_MAX_ROUNDS = 10
"""Searches for processes that others started while they were being stopped."""
_STOP_S = 0.5
"""Longest wait for one process to stop."""
_NEVER_S = 1e6
"""Interval between switches of threads that is longer than any process runs."""


class CommandStopped(KeyboardInterrupt):
    """Request to end the command, raised wherever it is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        """The signal."""


class _Phase(enum.Enum):
    IMPORTING = enum.auto()
    WORKING = enum.auto()
    ENDING = enum.auto()


class _CommandState:
    """Phase of the command; `process_id` is 0 in processes that are not commands."""

    def __init__(self) -> None:
        self.phase = _Phase.IMPORTING
        self.process_id = 0
        self.is_over = False
        """Whether children were killed, which a pool would replace by new ones."""
        self.stopped_by = 0
        """The signal that ends the main function."""
        self.is_killing = False
        """Whether children are being killed; another signal must not do so inside of it."""
        self.is_exiting = False
        """Whether the process is about to exit, so that another signal has nothing left to do."""
        self.is_urgent = False
        """Whether another signal arrived meanwhile."""
        self.is_reported = False
        """Whether the line that says which signal ended the command has been written."""


_STATE = _CommandState()


def _exit_if_over() -> None:
    if _STATE.is_over:
        os._exit(EXIT_INTERRUPTED)


os.register_at_fork(after_in_child=_exit_if_over)


def is_command_process() -> bool:
    """Return whether this process runs a command, as opposed to a test or a worker."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in _COMMAND_PACKAGES


def install_handler() -> None:
    """Handle Ctrl-C if this process runs a command."""
    is_command = is_command_process()
    is_known = _STATE.process_id == os.getpid()
    if is_command and not is_known:
        _STATE.process_id, _STATE.phase = os.getpid(), _Phase.IMPORTING
        signal.signal(signal.SIGINT, stop_command)
    elif is_known and not is_command:  # a program had run a command inside of its own process
        _STATE.process_id = 0
        signal.signal(signal.SIGINT, signal.default_int_handler)


def begin_work() -> None:
    """Enter the main function of a command, if this process runs one."""
    install_handler()
    _STATE.stopped_by, _STATE.is_reported = 0, False
    if _STATE.process_id == os.getpid():
        # The handler can't use a module whose import a signal interrupts.
        import psutil  # noqa: F401

        # Runs after most other exit handlers. Later, Python would let the signal kill the process.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        _STATE.phase = _Phase.WORKING
        sys.unraisablehook = _end_if_swallowed


def stopped_by() -> int:
    """Return the signal that ends the main function of the command, or 0."""
    return _STATE.stopped_by


def end_work() -> None:
    """Leave the main function of a command: a signal during the exit of Python ends it at once."""
    if _STATE.process_id == os.getpid():
        _STATE.phase = _Phase.ENDING


def end_work_on(numbers: Iterable[int]) -> None:
    """Let further signals end this process like Ctrl-C, if it runs a command."""
    if _STATE.process_id == os.getpid():
        for number in numbers:
            signal.signal(number, stop_command)


def stop_command(number: int, frame: FrameType | None = None) -> None:
    """Handle a signal that ends the command.

    Raises:
        CommandStopped: The first time in the main function.
    """
    del frame
    if _STATE.process_id not in (0, os.getpid()):
        return  # forked by the command, which ends this process
    if _STATE.is_killing or _STATE.is_exiting:
        _STATE.is_urgent = True
        return
    if _STATE.process_id and _STATE.phase is not _Phase.WORKING:
        end_at_once(number)
    _STATE.phase, _STATE.is_over = _Phase.ENDING, True
    if _STATE.process_id:
        deadline = threading.Timer(_CLEANUP_S, end_at_once, [number])
        deadline.daemon = True
        deadline.start()
    _STATE.stopped_by = number
    end_children()
    if _STATE.is_urgent:
        end_at_once(number)
    raise CommandStopped(number)


def report_stop(number: int) -> None:
    """Write the line that says which signal ended the command, if it has not been written.

    Raises:
        OSError: If nobody reads the output any more.
    """
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    # Another signal between the two lines would write it again.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        if not _STATE.is_reported:
            os.write(2, f"stopped by {name}\n".encode())
            _STATE.is_reported = True
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_once(number: int = signal.SIGINT) -> NoReturn:
    """End this process and its children without any cleanup."""
    _STATE.is_over = _STATE.is_exiting = True
    children = _stop_children()
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(descriptor):  # a progress display hides it
                os.write(descriptor, _SHOW_CURSOR)
    with contextlib.suppress(OSError):
        report_stop(number)
    # No other thread may run between the next lines: that of a pool would replace its processes.
    sys.setswitchinterval(_NEVER_S)
    _kill(children)
    os._exit(128 + number)


def end_children() -> None:
    """Kill all processes that this one has started, and theirs."""
    _kill(_stop_children())


def _kill(processes: Iterable[int]) -> None:
    for process_id in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)


def _stop_children() -> list[int]:
    """Stop all processes, and return their ids; one that runs on might start another."""
    if _STATE.process_id and _STATE.phase is _Phase.IMPORTING:
        return []  # there are none, and psutil may be what is being imported
    _STATE.is_killing = True
    import psutil  # slow, and this module is imported first in every command

    try:
        known: dict[int, bool] = {}
        for _ in range(_MAX_ROUNDS):
            new = [c for c in psutil.Process().children(recursive=True) if c.pid not in known]
            if not new:
                break
            known |= {child.pid: _stop(child) for child in new}
        return [process_id for process_id, is_stopped in known.items() if is_stopped]
    finally:
        _STATE.is_killing = False


def _stop(process: "psutil.Process") -> bool:
    """Stop a process, and wait until it does not run any more; return False for the helper."""
    import psutil

    with contextlib.suppress(psutil.Error):
        if _HELPER in " ".join(process.cmdline()):
            return False
        process.suspend()
        end = time.monotonic() + _STOP_S
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            if time.monotonic() > end:
                break
            time.sleep(0.001)
        return True
    return False  # it has ended


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Let the first signal end the command without cleanup.

    For libraries whose cleanup waits for ever for processes that were killed, such as pools of
    multiprocessing, and for work that can be killed at any time.
    """
    before, _STATE.phase = _STATE.phase, _Phase.ENDING
    try:
        yield
    finally:
        _STATE.phase = before


def end_helpers() -> None:
    """End the helper processes of a command that is done, which would take seconds to end."""
    if _STATE.process_id == os.getpid():
        end_children()


@contextlib.contextmanager
def without_interrupts(tracker: Any = resource_tracker) -> Iterator[None]:
    """Start processes that never receive Ctrl-C from the terminal; this one receives it later.

    Args:
        tracker: The module `resource_tracker` of multiprocessing, or of a library that copies it.
            It is started before, because its start lets signals through again.
    """
    tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_if_swallowed(event: "sys.UnraisableHookArgs") -> None:
    """End the command if the exception was raised in a destructor, which ignores it."""
    if isinstance(event.exc_value, KeyboardInterrupt):
        end_at_once()
    sys.__unraisablehook__(event)
