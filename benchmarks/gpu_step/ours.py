"""Our implementation in the GPU step benchmark: real modules and settings, timed per step."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import lightning
import torch

from benchmarks.gpu_step.data import Sources, mixture_of
from benchmarks.gpu_step.flops import Work, flop_model, work_of
from benchmarks.gpu_step.model import Shape, build_ours, make_transform
from configuration.run_config import ALIGN_POLICY, INSTRUCT_POLICY
from configuration.trainer import Accelerator
from core.chat.format import ChatFormat, PromptStyle
from core.samples import StepBatch
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from lightning_modules.compute import ComputeConfig
from lightning_modules.optim import OptimConfig, OptimizerName
from lightning_modules.vlm_module import VlmModule
from models.language.attention import AttentionKind
from models.language.float8 import check_float8, has_torchao, use_float8
from pipeline.trainer import apply_compute, row_layout


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Lever:
    """One changed setting of a stage; all others are those of its best known setting."""

    compile_blocks: bool = True
    checkpoint_blocks: int = 0
    is_chunked: bool = True
    """Whether logits are computed for `loss_chunk` positions at a time."""
    attention: AttentionKind = AttentionKind.AUTO
    style: PromptStyle = PromptStyle.PLAIN
    optimizer: OptimizerName = OptimizerName.ADAMW
    is_float8: bool = False
    """Whether the matrix products of the decoder blocks are in float8."""


FLOAT8 = "float8"
"""Name of the setting that has targets of its own."""
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
        FLOAT8: {"is_float8": True},
        "no compile": {"compile_blocks": False},
        "checkpoint all": {"checkpoint_blocks": 1},
        "checkpoint half": {"checkpoint_blocks": 2},
        "whole loss": {"is_chunked": False},
        "mask attention": {"attention": AttentionKind.MASK},
        "flex attention": {"attention": AttentionKind.FLEX},
    },
    2: {
        "best": {},
        FLOAT8: {"is_float8": True},
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
    """Return the settings to measure; on CPUs, compiled blocks and flex attention are left out."""
    levers = {
        name: dataclasses.replace(BEST[stage], **changes)
        for name, changes in _CHANGES[stage].items()
    }
    if device.type == "cuda":
        return levers
    if not has_torchao():
        print(f"'{FLOAT8}' is left out: torchao is not installed (pip install '.[float8]')")
        del levers[FLOAT8]
    for name in ("no compile", "flex attention"):
        levers.pop(name, None)
    return {
        name: dataclasses.replace(lever, compile_blocks=False) for name, lever in levers.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Stage, data and number of steps of one run."""

    stage: int
    device: torch.device
    num_warm: int
    num_timed: int
    num_workers: int
    cache: Path

    @property
    def num_steps(self) -> int:
        """Return the number of warm-up and timed steps."""
        return self.num_warm + self.num_timed


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Measurements of the timed steps of one run."""

    seconds: float
    work: Work
    flops: float
    """Theoretical operations, see `benchmarks.gpu_step.flops`."""
    num_samples: float
    """Number of images (with all their questions) and texts."""
    num_positions: int
    """Number of positions including padding; 0 if they were not counted."""
    first_step_s: float
    """Duration of the first step, including compilation."""
    data_wait_s: float | None
    """Part of `seconds` spent waiting for the loader; None if it was not measured."""
    losses: list[float]
    optimizer: str


class StepClock(lightning.Callback):
    """Callback that records the duration and the work of every step on an idle device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.waits: list[float] = []
        """Time until the batch was on the device, included in the duration."""
        self.batches: list[tuple[Work, int, int]] = []
        """Work, samples and positions of every step."""
        self.losses: list[float] = []
        self._resumed = 0.0

    def on_train_start(self, *args: Any) -> None:
        """Record the time before the first batch."""
        del args
        self._resumed = self._now()

    def on_train_batch_start(self, *args: Any) -> None:
        """Record the arrival of the batch."""
        del args
        self.waits.append(self._now() - self._resumed)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: StepBatch, batch_idx: int
    ) -> None:
        """Record the end of a step; counting its work is excluded from the next step."""
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
    """Train a new random model for a few steps with one setting."""
    torch.compiler.reset()  # discard the compiled blocks of the previous setting
    model = build_ours(shape, chat, plan.device)
    flops = flop_model(model)
    config = ComputeConfig(
        compile_blocks=lever.compile_blocks,
        checkpoint_blocks=lever.checkpoint_blocks,
        attention=lever.attention,
        loss_chunk=shape.loss_chunk if lever.is_chunked else 0,
    )
    if lever.is_float8:
        check_float8(plan.device)
        use_float8(model.language_model, is_emulated=plan.device.type == "cpu")
    optim = OptimConfig(lr=1e-5, optimizer=lever.optimizer)
    policy = ALIGN_POLICY if plan.stage == 1 else INSTRUCT_POLICY
    module = VlmModule(model, policy=policy, optim=optim, num_steps=plan.num_steps)
    apply_compute(model, config, _accelerator(plan))
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
        layout=row_layout(lever.attention, is_gpu=plan.device.type != "cpu"),
    )


def _accelerator(plan: Plan) -> Accelerator:
    return Accelerator.CPU if plan.device.type == "cpu" else Accelerator.GPU


def _trainer(plan: Plan, clock: StepClock) -> lightning.Trainer:
    """Build a plain Trainer; the weights are in bf16, so no precision plugin is needed."""
    return lightning.Trainer(
        max_steps=plan.num_steps,
        max_epochs=-1,
        accelerator=_accelerator(plan),
        devices=1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _name_of(optimizer: Any) -> str:
    """Return the library and class of the optimizer that performs the step."""
    return f"{type(optimizer).__module__.split('.')[0]}.{type(optimizer).__name__}"
