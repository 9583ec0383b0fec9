"""Enforces the bad-sample budget of a training stage."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from core.samples import StepBatch
from datamodules.mixture_datamodule import MixtureDataModule


class BadSampleBudget(Callback):
    """Record every consumed step, and abort the run once a source has too many bad samples.

    It comes before all other callbacks, so that a checkpoint is never saved for a step that
    exceeds the budget, and the monitor reports counts that include the current step.
    """

    @override
    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        """Record the step.

        Raises:
            DataError: If a source has more bad samples than `max_bad_fraction` allows.
        """
        del pl_module, outputs, batch_idx
        accounts = MixtureDataModule.of(trainer).accounts
        accounts.record(batch, world_size=trainer.world_size)

    @override
    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Wait until every rank has written its bad samples, because rank 0 summarises them."""
        del pl_module
        trainer.strategy.barrier("bad samples")
