"""Our side: the data module and the Lightning module of stage 2, as a stage run uses them."""

from pathlib import Path

import lightning
from transformers import PreTrainedModel

from benchmarks.llava_baseline import LR, Result
from benchmarks.train_step import FOLDER, OurClock
from configuration.run_config import INSTRUCT_POLICY
from configuration.trainer import Accelerator
from core.chat.format import PromptStyle
from datamodules.batches.step_dataset import PlannedSample, global_batches
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from lightning_modules.compute import ComputeConfig
from lightning_modules.optim import OptimConfig
from lightning_modules.vlm_module import VlmModule
from models.freezing import apply_freeze
from models.language.attention import AttentionKind
from models.ready_made.loading import ReadyMadeSource, load_chat, load_ready_made
from pipeline.trainer import apply_compute

IMAGES_PER_STEP, TEXTS_PER_STEP = 48, {"chat": 12, "text": 4}
"""Samples per optimizer step: conversations about an image, conversations, running text."""
TARGET_SHARE = 0.2
MICRO_BATCH_TOKENS = 4096
ROW_TOKENS = {"tiny": 2048, "small": 640}
"""Length of a packed row by size of the checkpoint: about that of the longest conversation."""


def stream_config(size: str) -> StreamConfig:
    """Return a round of stage 2 of the embedded profile at a share of 20 %, with larger steps."""
    images = ComponentConfig(
        base=_manifest("round_instruct_en"),
        target=_manifest("round_instruct_eu"),
        target_share=TARGET_SHARE,
        samples_per_step=IMAGES_PER_STEP,
    )
    texts = {
        name: ComponentConfig(base=_manifest(f"{name}_eu"), samples_per_step=number)
        for name, number in TEXTS_PER_STEP.items()
    }
    return StreamConfig(
        mixture=MixtureConfig(components={"images": images, **texts}),
        prompt_style=PromptStyle.CHAT,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        row_tokens=ROW_TOKENS[size],
    )


def _manifest(source: str) -> str:
    return str(FOLDER / f"{source}.manifest.json")


def build_data(
    checkpoint: Path, stream: StreamConfig, *, num_steps: int, cache: Path
) -> MixtureDataModule:
    """Return the data module of a checkpoint."""
    source = ReadyMadeSource(path=str(checkpoint))
    chat, model = load_chat(source), load_ready_made(source)
    return MixtureDataModule(
        stream,
        chat=chat,
        num_steps=num_steps,
        cache_dir=cache,
        transform=chat.encode_image,
        join_images=model.rules.join_images,
    )


def planned_samples(data: MixtureDataModule) -> list[list[PlannedSample]]:
    """Return the samples of every step, in the order of the stream."""
    return [list(batch) for batch in global_batches(data.data, range(data.num_steps))]


def load_frozen(checkpoint: Path) -> PreTrainedModel:
    """Load the stock model with the parts frozen that our side freezes."""
    model = load_ready_made(ReadyMadeSource(path=str(checkpoint)))
    apply_freeze(model, INSTRUCT_POLICY)
    return model.stock


def run_ours(checkpoint: Path, stream: StreamConfig, *, num_steps: int, cache: Path) -> Result:
    """Train the Lightning module of stage 2 on the steps of the stream."""
    data = build_data(checkpoint, stream, num_steps=num_steps, cache=cache)
    model = load_ready_made(ReadyMadeSource(path=str(checkpoint)))
    apply_compute(model, ComputeConfig(attention=AttentionKind.DOCUMENTS), Accelerator.CPU)
    module = VlmModule(
        model,
        policy=INSTRUCT_POLICY,
        optim=OptimConfig(lr=LR, warmup_fraction=0.0, min_lr_fraction=1.0),
        num_steps=num_steps,
    )
    clock = DensityClock()
    trainer = lightning.Trainer(
        max_steps=num_steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return Result(seconds=clock.seconds, losses=clock.losses, density=clock.density)


class DensityClock(OurClock):
    """Clock that also counts tokens and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.num_tokens = self.num_positions = 0

    def on_train_batch_end(self, *args: object) -> None:
        """Record the end of a step, and its tokens."""
        super().on_train_batch_end(*args)
        batch = args[3]
        for micro_batch in batch.micro_batches:
            self.num_tokens += sum(ref.num_tokens for ref in micro_batch.samples)
            self.num_positions += micro_batch.input_ids_BT.numel()

    @property
    def density(self) -> float:
        """Return the fraction of positions that are not padding."""
        return self.num_tokens / self.num_positions
