"""Stopping at an optimizer step when the machine asks for it.

Lightning's handler broadcasts inside the signal handler (it hangs with several ranks) and exits
with 0, which a scheduler reads as "done". Here a signal only raises a flag; all ranks agree on it
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
            raise PreemptedError(self._save(trainer))

    def _save(self, trainer: lightning.Trainer) -> str:
        """Save and say what is on disk; a full one must not turn a stop into a failure."""
        step, checkpoint = trainer.global_step, self.checkpoint
        try:
            # A save that fails is tried once more: there is no later one.
            if checkpoint.save(trainer, wait=True) or checkpoint.save(trainer, wait=True):
                return f"stopped at step {step}, saved to {checkpoint.folder}"
        except CheckpointError as error:
            told = str(error)
        else:
            told = "see the log"
        kept = "none of this attempt" if checkpoint.last_step is None else checkpoint.last_step
        return f"stopped at step {step}, which could not be saved ({told}); last saved step: {kept}"
