"""BadSampleBudget: the budget holds in any run, with or without a metrics logger."""

from pathlib import Path

import pytest
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.bad_sample_budget import BadSampleBudget
from core.errors import DataError
from core.samples import BadSample, StepBatch
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from tests.support.doubles import fake_transform, make_chat, make_texts

NUM_STEPS = 3


class NoUpdate(LightningModule):
    """Consume batches without training anything."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        del batch, batch_idx

    def configure_optimizers(self) -> None:
        return None


class DamagedSteps(MixtureDataModule):
    """Report one bad sample in every step."""

    def train_dataloader(self) -> DataLoader[StepBatch]:
        bad = {"source": "text", "key": "k0", "fault": "broken", "reason": "text/k0: broken"}

        steps = [
            StepBatch(step=step, micro_batches=(), bad_samples=(BadSample(position=step, **bad),))
            for step in range(NUM_STEPS)
        ]
        return DataLoader(steps, batch_size=None, collate_fn=lambda step: step)


def run_training(folder: Path, max_bad_fraction: float) -> MixtureDataModule:
    component = ComponentConfig(base=str(make_texts(folder, "text")), samples_per_step=2)
    config = StreamConfig(
        mixture=MixtureConfig(components={"text": component}),
        micro_batch_tokens=128,
        row_tokens=64,
        max_bad_fraction=max_bad_fraction,
    )
    data = DamagedSteps(
        config,
        chat=make_chat(),
        num_steps=NUM_STEPS + 1,
        cache_dir=folder,
        transform=fake_transform,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        callbacks=[BadSampleBudget()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(NoUpdate(), datamodule=data)
    return data


@pytest.mark.filterwarnings("ignore")
def test_training_without_a_logger_aborts_past_the_budget(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source 'text': 1 of 1 samples were bad"):
        run_training(tmp_path, max_bad_fraction=0.0)


@pytest.mark.filterwarnings("ignore")
def test_training_within_the_budget_counts_every_bad_sample(tmp_path: Path) -> None:
    data = run_training(tmp_path, max_bad_fraction=0.01)
    assert data.accounts.bad_counts == {"text": NUM_STEPS}
