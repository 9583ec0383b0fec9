"""Train a minimal model that saves continuously: `python -m ... FOLDER NUM_STEPS`.

It prints `saved STEP` for every checkpoint that it considers complete.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from callbacks.checkpoint_files import latest_checkpoint
from callbacks.checkpoint_interval import EverySteps
from callbacks.checkpoints import AtomicCheckpoint

_WIDTH = 256
"""Width of the layer; a checkpoint with both moments of Adam has 0.8 MB."""


class Walk(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(_WIDTH, _WIDTH)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        del batch_idx
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class _Report(Callback):
    def __init__(self, checkpoint: AtomicCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.reported: int | None = None

    def on_train_batch_end(self, *args: Any) -> None:
        del args
        if self.checkpoint.last_step != self.reported:
            self.reported = self.checkpoint.last_step
            print("saved", self.reported, flush=True)  # noqa: T201 - what it is for


def fit(
    folder: Path, *, num_steps: int, every: int, extra: Sequence[Callback] = (), **options: Any
) -> None:
    """Resume from the newest checkpoint and train."""
    checkpoint = AtomicCheckpoint(folder, cadence=EverySteps(every), **options)
    run([checkpoint, _Report(checkpoint), *extra], folder, num_steps=num_steps)


def run(callbacks: list[Callback], folder: Path, *, num_steps: int) -> None:
    """Train with the given callbacks."""
    saved = latest_checkpoint(folder)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=num_steps,
        max_epochs=-1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data: Any = DataLoader(torch.ones(8, _WIDTH), batch_size=2)
    trainer.fit(Walk(), data, ckpt_path=saved.path if saved else None, weights_only=True)


if __name__ == "__main__":
    fit(Path(sys.argv[1]), num_steps=int(sys.argv[2]), every=2, background_above_bytes=0)
