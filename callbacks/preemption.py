"""Graceful stop between optimizer steps after a stop signal.

Lightning's handler broadcasts inside the signal handler, which hangs with several ranks, and exits
with 0, which a scheduler takes for success. Here a signal only sets a flag; all ranks agree on it
at the next step, save, and leave the loop.
"""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from callbacks.checkpoints import AtomicCheckpoint
from core.errors import CheckpointError, PreemptedError
from core.process.distributed import any_rank
from core.process.stop import StopFlag


class Preemption(Callback):
    """Callback that saves a checkpoint and ends training once the stop flag is set."""

    def __init__(self, flag: StopFlag, checkpoint: AtomicCheckpoint) -> None:
        self.flag = flag
        self.checkpoint = checkpoint

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Install our signal handlers again, because Lightning has just replaced them."""
        del trainer, args
        self.flag.install()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        """Save and stop if the flag is set on any rank.

        Raises:
            PreemptedError: If training stopped.
        """
        del args
        if trainer.global_step >= trainer.max_steps:
            return
        if any_rank(flag=self.flag.is_set, device=module.device):
            raise PreemptedError(self._save(trainer))

    def _save(self, trainer: lightning.Trainer) -> str:
        """Save and return a message; a full disk must not turn a stop into a failure."""
        step, checkpoint = trainer.global_step, self.checkpoint
        try:
            # Retry a failed save once: there is no later one.
            if checkpoint.save(trainer, wait=True) or checkpoint.save(trainer, wait=True):
                return f"stopped at step {step}, saved to {checkpoint.folder}"
        except CheckpointError as error:
            reason = str(error)
        else:
            reason = "see the log"
        saved = "none of this attempt" if checkpoint.last_step is None else checkpoint.last_step
        return (
            f"stopped at step {step}, which could not be saved ({reason}); last saved step: {saved}"
        )
