"""Stop flag that is set by signals, and the exit codes of a run that stopped.

It is independent of the callback that acts on it, because commands install it before slow imports.
"""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

EXIT_PREEMPTED = 128 + signal.SIGTERM
"""Exit code of a process that saved and stopped on request (143)."""

PARENT = "IRUDIMEN_PARENT"
"""Environment variable with the id of the process whose end also ends this one."""
EXIT_HUNG = 75
"""Exit code of a process that ended itself because it hung (EX_TEMPFAIL)."""


class StopFlag:
    """Flag that stop signals set; install it before the slow imports of a run."""

    def __init__(self) -> None:
        self.is_set = False

    def install(self) -> None:
        """Handle the stop signals of this process (main thread only)."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_set = True
