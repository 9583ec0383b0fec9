"""Stop flag that is set by signals, and the exit codes of a run that stopped.

It is independent of the callback that acts on it, because workers install it before slow imports.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from core.process import interrupts

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

EXIT_PREEMPTED = 128 + signal.SIGTERM
"""Exit code of a process that saved and stopped on request (143)."""

PARENT = "IRUDIMEN_PARENT"
"""Environment variable with the id of the process whose end also ends this one."""
EXIT_HUNG = 75
"""Exit code of a process that ended itself because it hung (EX_TEMPFAIL)."""
_STOPPING = b"\nstopping once everything is saved; press Ctrl-C again to end at once\n"


class StopFlag:
    """Flag that stop signals set, so that what runs can save first."""

    def __init__(self) -> None:
        self.is_set = False
        self.exit_status: int = EXIT_PREEMPTED
        """Exit status of a command that stopped because of the flag."""

    def install(self) -> None:
        """Handle the stop signals of a worker (main thread only), before its slow imports."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._set)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the stop signals of a command while its stage runs train.

        The first one sets the flag. If it was Ctrl-C, another Ctrl-C ends the command and all stage
        runs at once. Before and after, signals end the command where it is.
        """
        before = {number: signal.signal(number, self._stop_runs) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _stop_runs(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.is_set and self.exit_status == interrupts.EXIT_INTERRUPTED:
                interrupts.end_at_once()
            self.exit_status = interrupts.EXIT_INTERRUPTED
            with contextlib.suppress(OSError):
                os.write(2, _STOPPING)
        self._set(number, frame)

    def _set(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_set = True
