"""The flag that stop signals raise, and the exit code of a run that saved and stopped.

Kept apart from the callback that acts on it: commands install it before their slow imports.
"""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

EXIT_PREEMPTED = 128 + signal.SIGTERM
"""Exit code of a process that saved and stopped on request (143)."""

PARENT = "IRUDIMEN_PARENT"
"""Environment variable: the process whose end ends this one."""
EXIT_HUNG = 75
"""Exit code of a process that ended itself because it no longer moved (EX_TEMPFAIL)."""


class StopFlag:
    """A flag that signals raise; install it before the slow imports of a run."""

    def __init__(self) -> None:
        self.is_set = False

    def install(self) -> None:
        """Take over the stop signals of this process (main thread only)."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_set = True
