"""Our side of `gpu_step`: the real modules, DataModules and levers, timed step by step."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import lightning
import torch

from benchmarks.gpu_step.data import Sources, mixture_of
from benchmarks.gpu_step.flops import Work, flop_model, work_of
from benchmarks.gpu_step.model import Shape, build_ours, make_transform
from core.chat.format import ChatFormat, PromptStyle
from core.samples import StepBatch
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from lightning_modules.compute import ComputeConfig
from lightning_modules.optim import OptimConfig, OptimizerName
from lightning_modules.vlm_module import AlignmentModule, InstructionModule
from models.language.attention import AttentionKind
from pipeline.stages.builders import apply_compute


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Lever:
    """One setting of one stage; all others are those of the stage's best known setting."""

    compile_blocks: bool = True
    checkpoint_blocks: int = 0
    is_chunked: bool = True
    """Logits of the shape's `loss_chunk` positions at a time."""
    attention: AttentionKind = AttentionKind.AUTO
    style: PromptStyle = PromptStyle.PLAIN
    optimizer: OptimizerName = OptimizerName.ADAMW


BEST = {
    1: Lever(),
    2: Lever(
        checkpoint_blocks=1,
        style=PromptStyle.SHARED_PREFIX,
        optimizer=OptimizerName.ADAMW_8BIT,
    ),
}
_CHANGES: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "best": {},
        "no compile": {"compile_blocks": False},
        "checkpoint all": {"checkpoint_blocks": 1},
        "checkpoint half": {"checkpoint_blocks": 2},
        "whole loss": {"is_chunked": False},
        "mask attention": {"attention": AttentionKind.MASK},
        "flex attention": {"attention": AttentionKind.FLEX},
    },
    2: {
        "best": {},
        "chat style": {"style": PromptStyle.CHAT},
        "no compile": {"compile_blocks": False},
        "checkpoint half": {"checkpoint_blocks": 2},
        "no checkpoint": {"checkpoint_blocks": 0},
        "whole loss": {"is_chunked": False},
        "mask attention": {"attention": AttentionKind.MASK},
        "32-bit optimizer": {"optimizer": OptimizerName.ADAMW},
    },
}


def levers_of(stage: int, device: torch.device) -> dict[str, Lever]:
    """The settings to measure; a CPU knows neither compiled blocks (slowly) nor flex backward."""
    levers = {
        name: dataclasses.replace(BEST[stage], **changes)
        for name, changes in _CHANGES[stage].items()
    }
    if device.type == "cuda":
        return levers
    for name in ("no compile", "flex attention"):
        levers.pop(name, None)
    return {
        name: dataclasses.replace(lever, compile_blocks=False) for name, lever in levers.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to run and for how long."""

    stage: int
    device: torch.device
    num_warm: int
    num_timed: int
    num_workers: int
    cache: Path

    @property
    def num_steps(self) -> int:
        """Warm-up and timed steps."""
        return self.num_warm + self.num_timed


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """The timed steps of one run."""

    seconds: float
    work: Work
    flops: float
    """By the math, see `gpu_step_flops`."""
    num_samples: float
    """Images (with all their questions) and texts."""
    num_positions: int
    """Positions of the batches, padding included; 0 where they were not counted."""
    first_step_s: float
    """With compilation."""
    data_wait_s: float | None
    """Part of `seconds` in which the step waited for the loader; None where it wasn't measured."""
    losses: list[float]
    optimizer: str


class StepClock(lightning.Callback):
    """Time of every step on an idle device, and what the steps held."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.waits: list[float] = []
        """Of these, until the batch was on the device."""
        self.batches: list[tuple[Work, int, int]] = []
        """Work, samples, positions."""
        self.losses: list[float] = []
        self._resumed = 0.0

    def on_train_start(self, *args: Any) -> None:
        """Before the first batch is asked for."""
        del args
        self._resumed = self._now()

    def on_train_batch_start(self, *args: Any) -> None:
        """The batch is there."""
        del args
        self.waits.append(self._now() - self._resumed)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: StepBatch, batch_idx: int
    ) -> None:
        """One step is over; counting its work is no part of the next one."""
        del trainer, outputs, batch_idx
        self.seconds.append(self._now() - self._resumed)
        self.losses.append(float(pl_module.step_metrics["train/loss"]))
        num_samples = sum(len(mb.samples) for mb in batch.micro_batches)
        num_positions = sum(mb.input_ids_BT.numel() for mb in batch.micro_batches)
        self.batches.append((work_of(batch.micro_batches), num_samples, num_positions))
        self._resumed = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def run_ours(lever: Lever, plan: Plan, shape: Shape, chat: ChatFormat, sources: Sources) -> Timing:
    """Train a fresh random model for a few steps under one setting."""
    torch.compiler.reset()  # a compilation of the lever before would be found, not made
    model = build_ours(shape, chat, plan.device)
    flops = flop_model(model)
    config = ComputeConfig(
        compile_blocks=lever.compile_blocks,
        checkpoint_blocks=lever.checkpoint_blocks,
        attention=lever.attention,
        loss_chunk=shape.loss_chunk if lever.is_chunked else 0,
    )
    optim = OptimConfig(lr=1e-5, optimizer=lever.optimizer)
    kind = AlignmentModule if plan.stage == 1 else InstructionModule
    module = kind(model, optim=optim, num_steps=plan.num_steps)
    apply_compute(model, config, "cpu" if plan.device.type == "cpu" else "gpu")
    clock = StepClock(plan.device)
    trainer = _trainer(plan, clock)
    trainer.fit(module, datamodule=_data(lever, plan, shape, chat, sources))
    if (done := len(clock.seconds)) != plan.num_steps:
        raise RuntimeError(f"{done} of {plan.num_steps} steps were trained")
    timed = clock.batches[plan.num_warm :]
    work = sum((work for work, _, _ in timed), Work())
    return Timing(
        seconds=sum(clock.seconds[plan.num_warm :]),
        work=work,
        flops=flops.step(work, is_stage_2=plan.stage == 2),
        num_samples=sum(samples for _, samples, _ in timed),
        num_positions=sum(positions for _, _, positions in timed),
        first_step_s=clock.seconds[0],
        data_wait_s=sum(clock.waits[plan.num_warm :]),
        losses=clock.losses,
        optimizer=_name_of(trainer.optimizers[0]),
    )


def _data(
    lever: Lever, plan: Plan, shape: Shape, chat: ChatFormat, sources: Sources
) -> MixtureDataModule:
    stream = StreamConfig(
        mixture=mixture_of(sources, shape, plan.stage),
        prompt_style=lever.style,
        micro_batch_tokens=shape.micro_batch_tokens,
        row_tokens=shape.row_tokens,
        num_workers=plan.num_workers,
    )
    return MixtureDataModule(
        stream,
        chat=chat,
        num_steps=plan.num_steps,
        cache_dir=plan.cache,
        transform=make_transform(shape),
    )


def _trainer(plan: Plan, clock: StepClock) -> lightning.Trainer:
    """A plain Trainer: the weights are bf16 already, so nothing needs a precision plugin."""
    return lightning.Trainer(
        max_steps=plan.num_steps,
        max_epochs=-1,
        accelerator="cpu" if plan.device.type == "cpu" else "gpu",
        devices=1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _name_of(optimizer: Any) -> str:
    """Library and class of what really steps."""
    return f"{type(optimizer).__module__.split('.')[0]}.{type(optimizer).__name__}"
