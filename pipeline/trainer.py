"""Construction of the Lightning Trainer and the execution settings of a training stage."""

import dataclasses
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

import lightning
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from callbacks.bad_sample_budget import BadSampleBudget
from callbacks.checkpoint_interval import Cadence, EverySteps, MeasuredSteps
from callbacks.checkpoints import SMALL_BYTES, AtomicCheckpoint
from callbacks.metrics_log import JsonlLogger
from callbacks.monitor import StreamMonitor
from callbacks.preemption import Preemption
from callbacks.watchdog import Watchdog
from configuration.trainer import Accelerator, TrainerConfig
from core.precision import Precision
from core.process.stop import StopFlag
from datamodules.batches.collate import PADDED_ROWS, RowLayout
from lightning_modules.compute import ComputeConfig, StrategyName
from lightning_modules.precision import trainer_arguments
from lightning_modules.strategy import build_strategy
from models.any_vlm import AnyVlm
from models.language.attention import AttentionKind, use_packed_attention
from models.language.blocks import checkpoint_activations, compile_blocks

GPU_ROW_MULTIPLE = 128
"""Positions; also the block size of flex attention."""


def apply_compute(model: AnyVlm, config: ComputeConfig, accelerator: Accelerator) -> None:
    """Apply the execution settings of a training stage; none of them changes what is computed."""
    kind = config.attention
    if kind is AttentionKind.AUTO and accelerator is Accelerator.CPU:
        kind = AttentionKind.MASK
    if kind is AttentionKind.DOCUMENTS and config.compile_blocks:
        kind = AttentionKind.MASK  # blocks would be compiled again for the lengths of every batch
    use_packed_attention(model.language_model, kind)
    model.attention = kind
    model.loss_chunk = config.loss_chunk
    checkpoint_activations(model.language_model, every=config.checkpoint_blocks)
    if config.compile_blocks:
        compile_blocks(model.language_model)


def row_layout(attention: AttentionKind, *, is_gpu: bool) -> RowLayout:
    """Return the arrangement of rows that suits a kernel: on a GPU one row without padding.

    The cost of an explicit mask grows with the square of a row, so its rows stay apart.
    """
    if not is_gpu:
        return PADDED_ROWS
    return RowLayout(is_end_to_end=attention is not AttentionKind.MASK, multiple=GPU_ROW_MULTIPLE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervision:
    """The connection between a training and the worker process that supervises it."""

    flag: StopFlag
    """Set to stop the training."""
    on_hung: Callable[[str], None]
    """Called with the reason before a training that makes no progress is ended."""


class TrainingRun(Protocol):
    """The fields of a training stage that a Trainer depends on."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""

    @property
    def precision(self) -> Precision:
        """Numeric precision."""


def build_trainer(
    folder: Path,
    config: TrainerConfig,
    *,
    stage: TrainingRun,
    supervision: Supervision,
    strategy: StrategyName,
    keep_steps: Collection[int] = (),
) -> lightning.Trainer:
    """Return a step-based Trainer with our checkpoints, logs and preemption handling.

    Checkpoints of `keep_steps` are written and kept whatever the other settings say.
    """
    checkpoint = AtomicCheckpoint(
        folder / "checkpoints",
        cadence=checkpoint_cadence(config),
        keep=config.keep_checkpoints,
        keep_every_n_steps=config.keep_every_n_steps,
        keep_steps=keep_steps,
        background_above_bytes=SMALL_BYTES if config.save_in_background else math.inf,
    )
    return lightning.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=build_strategy(
            config.accelerator,
            config.devices,
            num_nodes=config.num_nodes,
            name=strategy,
            timeout_s=config.hung_after_s,
        ),
        **trainer_arguments(stage.precision, _cluster()),
        max_steps=stage.num_steps,
        max_epochs=-1,
        logger=JsonlLogger(folder, total_steps=stage.num_steps),
        log_every_n_steps=config.log_every_n_steps,
        callbacks=[
            BadSampleBudget(),
            StreamMonitor(every_n_steps=config.log_every_n_steps),
            checkpoint,
            Preemption(supervision.flag, checkpoint),
            Watchdog(config.hung_after_s, report=supervision.on_hung),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def checkpoint_cadence(config: TrainerConfig) -> Cadence:
    """Return when checkpoints are saved: at fixed steps, or as measured times demand."""
    if config.checkpoint_every_n_steps:
        return EverySteps(config.checkpoint_every_n_steps)
    return MeasuredSteps(3600 * config.hours_between_failures)


def _cluster() -> ClusterEnvironment:
    """Torchrun's ranks, or one process on each machine whose further ranks Lightning starts.

    The latter in SLURM too, without Lightning's requeueing, which saves inside a signal handler.
    """
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()
