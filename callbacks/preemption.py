"""Stopping at an optimizer step when the machine asks for it.

Lightning's handler broadcasts inside the signal handler (it hangs with several ranks) and exits
with 0, which a scheduler reads as "done". Here a signal only raises a flag; all ranks agree on it
at the next step, save, and leave the loop.
"""

import signal
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from callbacks.checkpoints import AtomicCheckpoint
from core.distributed import any_rank
from core.errors import PreemptedError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

EXIT_PREEMPTED = 128 + signal.SIGTERM
"""Exit code of a process that saved and stopped on request (143)."""


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


class Preemption(Callback):
    """Turns the flag into a checkpoint and a clean end of training."""

    def __init__(self, flag: StopFlag, checkpoint: AtomicCheckpoint) -> None:
        self.flag = flag
        self.checkpoint = checkpoint

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Take the signals back from Lightning, which has just installed its own handlers."""
        del trainer, args
        self.flag.install()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        """Between two steps: agree, save, stop.

        Raises:
            PreemptedError: the state is on disk and the process should end.
        """
        del args
        if trainer.global_step >= trainer.max_steps:
            return
        if any_rank(flag=self.flag.is_set, device=module.device):
            path = self.checkpoint.save(trainer)
            raise PreemptedError(f"stopped at step {trainer.global_step}, saved to {path}")
