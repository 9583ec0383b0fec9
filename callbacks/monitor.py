"""Callback that logs losses, throughput, padding, source shares and bad samples of a training run.

The monitor comes before the checkpoint callback and writes immediately. Lightning's own `log` waits
until all callbacks have run, so a run that is stopped right after a save would lose that line.
"""

import re
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from core.samples import StepBatch
from datamodules.mixture_datamodule import MixtureDataModule
from lightning_modules.vlm_module import VlmModule

_INVALID_METRIC_CHARS = re.compile(r"[^\w .-]+")


class StreamMonitor(Callback):
    """Log the module's metrics, throughput, batch density, and share and loss of every source.

    Losses by source and language are means over all loss tokens since the last line, on all ranks.
    Throughput and density are those of this rank since the last line. Shares and epochs cover all
    ranks and attempts exactly: they follow from the order of samples, without communication.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._tokens = 0
        self._positions = 0
        self._since = 0.0

    def on_train_start(
        self,
        trainer: lightning.Trainer,
        module: VlmModule,  # type: ignore[override]  # the only module class in use
    ) -> None:
        """Start the clock and the losses by source."""
        languages = MixtureDataModule.of(trainer).source_languages()
        module.source_losses.begin(languages, module.device)
        self._since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: VlmModule,  # type: ignore[override]  # the only module class in use
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        """Count the tokens of the batch, and log every `every_n_steps` steps."""
        del outputs, batch_idx
        for micro_batch in batch.micro_batches:
            self._tokens += micro_batch.num_tokens
            self._positions += micro_batch.input_ids_BT.numel()
        if trainer.global_step % self.every_n_steps == 0:
            self._log_metrics(trainer, module)

    def _log_metrics(self, trainer: lightning.Trainer, module: VlmModule) -> None:
        now = time.perf_counter()
        values = {
            **{name: float(value) for name, value in module.step_metrics.items()},
            **module.source_losses.take(),
            "train/tokens_per_s": self._tokens / max(now - self._since, 1e-9),
            "train/density": self._tokens / max(self._positions, 1),
        }
        data = MixtureDataModule.of(trainer)
        values |= _share_metrics(data, trainer.global_step)
        values |= _bad_sample_metrics(data, trainer.global_step)
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=trainer.global_step - 1)
        self._since, self._tokens, self._positions = now, 0, 0


def _bad_sample_metrics(data: MixtureDataModule, step: int) -> dict[str, float]:
    """Return the bad samples before `step`, by source and by source and fault."""
    values: dict[str, float] = {}
    for source, faults in data.accounts.fault_counts(step).items():
        values[f"bad_samples/{source}"] = faults.total()
        for fault, count in faults.items():
            values[f"bad_samples/{source}/{_INVALID_METRIC_CHARS.sub('_', fault)}"] = count
    return values


def _share_metrics(data: MixtureDataModule, step: int) -> dict[str, float]:
    """Return the shares of samples and loss tokens, and the epochs, before `step`."""
    realised = data.accounts.realised_shares(step)
    num_samples = max(1, sum(share.num_samples for share in realised.values()))
    num_loss_tokens = max(1, sum(share.num_loss_tokens for share in realised.values()))
    values: dict[str, float] = {}
    for source, share in realised.items():
        values[f"share_of_samples/{source}"] = share.num_samples / num_samples
        values[f"share_of_loss_tokens/{source}"] = share.num_loss_tokens / num_loss_tokens
    epochs = data.stream.epochs(step)
    return values | {f"epochs/{component}": number for component, number in epochs.items()}
