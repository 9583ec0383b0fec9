"""Watches what a run really did: loss, throughput, padding, realised shares, samples left out.

It stands before the checkpoint callback and writes at once: what Lightning's own `log` keeps until
all callbacks are through is missing from the log of a run that is stopped right after a save.
"""

import time
from collections import Counter
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from core.samples import StepBatch
from core.tokens import PADDING_DOCUMENT
from lightning_modules.vlm_module import VlmModule


class StreamMonitor(Callback):
    """Logs the module's numbers, tokens per second, batch density, and counts per source.

    Counts are of this process's ranks' share, from the first step of this attempt on; the
    mixture itself is checked exactly by the DataModule.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.samples: Counter[str] = Counter()
        self.targets: Counter[str] = Counter()
        self._tokens = 0
        self._positions = 0
        self._since = 0.0

    def on_train_start(self, *args: Any) -> None:
        """Start the clock."""
        del args
        self._since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: VlmModule,  # type: ignore[override]  # the only kind this house trains with it
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        """Count the batch and log at the interval."""
        del outputs, batch_idx
        trainer.datamodule.record(batch)  # type: ignore[attr-defined]  # ours, by construction
        for micro_batch in batch.micro_batches:
            documents = micro_batch.document_ids_BT
            self._tokens += int((documents != PADDING_DOCUMENT).sum())
            self._positions += documents.numel()
            for ref in micro_batch.samples:
                self.samples[ref.source] += 1
                self.targets[ref.source] += ref.num_targets
        if trainer.global_step % self.every_n_steps == 0:
            self._log(trainer, module)

    def _log(self, trainer: lightning.Trainer, module: VlmModule) -> None:
        now = time.perf_counter()
        values = {
            **{name: float(value) for name, value in module.step_metrics.items()},
            "train/tokens_per_s": self._tokens / max(now - self._since, 1e-9),
            "train/density": self._tokens / max(self._positions, 1),
        }
        total_samples, total_targets = self.samples.total(), self.targets.total()
        for source in self.samples:
            values[f"share_of_samples/{source}"] = self.samples[source] / total_samples
            values[f"share_of_targets/{source}"] = self.targets[source] / total_targets
        for source, count in trainer.datamodule.bad_counts.items():  # type: ignore[attr-defined]
            values[f"bad_samples/{source}"] = count
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=trainer.global_step - 1)
        self._since, self._tokens, self._positions = now, 0, 0
