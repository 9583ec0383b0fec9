"""Cost of a stage on GPUs: memory by part, floating point operations, hours.

docs/reference/planner.md lists the formulas and what they leave out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import torch

from configuration.run_config import EvaluateConfig
from configuration.vlm_spec import VlmSpec
from core.precision import Precision
from datamodules.mixture_datamodule import StreamConfig
from evaluation.retention import RetentionConfig
from lightning_modules.compute import ComputeConfig
from lightning_modules.optim import OptimConfig, OptimizerName
from models.accounting.footprint import Footprint
from models.freezing import FreezePolicy
from models.language.adapters import TuningConfig, TuningKind
from planner.gpus import GIB, Gpu, TimeSpan
from planner.workload import Load

_FLOAT, _HALF = 4.0, 2.0
_NF4 = 0.516
"""Bytes of a 4-bit weight with its constants (docs/running/gpus.md)."""
_MOMENTS, _MOMENTS_8BIT = 8.0, 2.03
_LOGIT_BYTES = 12.0
"""Bytes per loss token and vocabulary entry: 16-bit logits, float32 logits, their gradient, and the
16-bit copy of the gradient."""
_TOWER_WORK = 16.0
"""Bytes per patch token and unit of width that the forward pass of a tower needs at once."""
_RESERVE_BYTES = 2.0 * GIB
"""Memory of the CUDA context, libraries and workspaces."""
_FRAGMENTS = 1.06
"""Factor for fragmentation of the allocator."""
_PROCESS_GIB = 8.0
"""Main memory of libraries, loaders and the index of the data (assumed, not measured)."""
RESERVE = "reserve"
"""Part of the memory for what no formula and no trace sees."""
_ON_HOST = ("frozen weights", "trained weights", "optimizer")
_ATTENTION_PASSES = 3
_EVALUATION_COPIES = 6
_TASK_DOCUMENTS, _DOCUMENT_TOKENS = 3000, 150
"""Assumed size of an lm-eval task."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Estimated cost of one stage run."""

    flops: float
    """Executed floating point operations, including recomputed ones."""
    memory: Mapping[str, float]
    """Part -> bytes on each GPU."""
    read_bytes: float = 0.0
    """Bytes read from memory one after the other while replies are generated token by token."""

    @property
    def host_gib(self) -> float:
        """Generous estimate of the main memory of one process.

        Weights and optimizer state pass through main memory when they are loaded, and stay there as
        a copy while a checkpoint is written in the background.
        """
        return _PROCESS_GIB + sum(self.memory.get(part, 0.0) for part in _ON_HOST) / GIB

    @property
    def memory_gib(self) -> float:
        """Memory of all parts."""
        return sum(self.memory.values()) / GIB

    def time(self, gpu: Gpu, hidden_size: int, count: int) -> TimeSpan:
        """Return the assumed time on `count` GPUs."""
        return gpu.time(self.flops, self.read_bytes, hidden_size=hidden_size, count=count)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Numbers of trained and frozen weights."""

    trained: int
    frozen: int


def weights_of(model: Footprint, tuning: TuningKind, *, trains_language_model: bool) -> Weights:
    """Return how many weights a stage trains; the tower is always frozen."""
    learns = trains_language_model
    trained = model.connector
    if learns:
        trained += model.language_model if tuning is TuningKind.FULL else model.adapters
    adapters = model.adapters if learns else 0
    total = model.tower + model.connector + model.language_model + adapters
    return Weights(trained=trained, frozen=total - trained)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSetup:
    """Execution settings that affect the cost of a training stage."""

    has_tower: bool
    """Whether the tower runs in every step (no feature cache)."""
    saved_per_token: float
    """Bytes that a decoder block keeps per token (`models.accounting.footprint`)."""
    count: int
    """GPUs that share the stage."""


class TrainingFields(Protocol):
    """Fields of a training stage that its cost depends on."""

    @property
    def model(self) -> VlmSpec:
        """Parts of the model."""

    @property
    def stream(self) -> StreamConfig:
        """Data and batch sizes."""

    @property
    def optim(self) -> OptimConfig:
        """Optimizer and schedule."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""

    @property
    def precision(self) -> Precision:
        """Numeric precision."""

    @property
    def tuning(self) -> TuningConfig:
        """Tuning method of the language model."""

    @property
    def compute(self) -> ComputeConfig:
        """Execution settings."""

    @property
    def policy(self) -> FreezePolicy:
        """Parts of the model that are trained."""


def training_cost(
    stage: TrainingFields, model: Footprint, load: Load, setup: TrainingSetup
) -> Cost:
    """Return the cost of a training stage; `model` is counted with its tuning method."""
    memory = _weight_bytes(stage, model, count=setup.count)
    memory |= _activation_bytes(stage, model, load, setup)
    return Cost(flops=_training_flops(stage, model, load, setup), memory=_with_reserve(memory))


def evaluation_cost(
    settings: EvaluateConfig, model: Footprint, load: Load, *, has_tower: bool
) -> Cost:
    """Return the cost of asking one model every question, on one GPU."""
    size = settings.weights.num_bytes
    language_model = model.language_model * size
    batch_sizes = {
        limit: settings.limits.prompts_per_batch(settings.batch_size, limit, model.num_image_tokens)
        for limit in load.num_replies
    }
    at_once = max(
        (size * (load.document_tokens + limit) for limit, size in batch_sizes.items()), default=0.0
    )
    widths = _EVALUATION_COPIES * model.hidden_size + 3 * model.inner_size
    memory = {
        "frozen weights": (model.tower + model.connector) * size + language_model,
        "activations": at_once * widths * size,
        "keys, values": at_once * model.num_blocks * model.cache_width * size,
    }
    # Batches have one limit each; at worst, all of them reach it.
    steps = sum(limit * n / batch_sizes[limit] for limit, n in load.num_replies.items())
    steps += sum(limit * n for limit, n in load.num_alone.items())
    images = model.image_flops * load.num_images if has_tower else 0.0
    return Cost(
        flops=sum(_block_flops(model, load)) + images,
        memory=_with_reserve(memory),
        read_bytes=steps * language_model,
    )


def features_cost(image_flops: float, num_images: int) -> Cost:
    """Return the cost of one pass of the tower over every image."""
    return Cost(flops=image_flops * num_images, memory=_with_reserve({}))


def retention_cost(settings: RetentionConfig, model: Footprint) -> Cost:
    """Return the cost of scoring the language model alone.

    The sizes of lm-eval's tasks are unknown before they are downloaded and therefore assumed.
    """
    documents = settings.limit or _TASK_DOCUMENTS
    tokens = len(settings.tasks) * documents * _DOCUMENT_TOKENS
    load = Load(num_samples=len(settings.tasks) * documents, num_tokens=tokens)
    at_once = settings.batch_size * _DOCUMENT_TOKENS
    logits = at_once * model.vocab_size * _FLOAT * 2
    memory = {"frozen weights": model.language_model * settings.weights.num_bytes, "logits": logits}
    head = 2.0 * tokens * model.vocab_size * model.hidden_size
    return Cost(flops=sum(_block_flops(model, load)) + head, memory=_with_reserve(memory))


def _weight_bytes(stage: TrainingFields, model: Footprint, *, count: int) -> dict[str, float]:
    learns = stage.policy.language_model
    weights = weights_of(model, stage.tuning.kind, trains_language_model=learns)
    is_mixed, is_half = (
        stage.precision is Precision.BF16_MIXED,
        stage.precision is Precision.BF16_TRUE,
    )
    is_sharded = stage.compute.strategy.is_sharded and learns
    shards = count if is_sharded else 1
    has_adapters = learns and stage.tuning.kind is not TuningKind.FULL
    size = _HALF if is_half and not has_adapters else _FLOAT
    frozen_size = _FLOAT if stage.precision is Precision.FLOAT32 else _HALF
    quantised = model.quantisable if stage.tuning.kind is TuningKind.QLORA else 0
    moments = _MOMENTS_8BIT if stage.optim.optimizer is OptimizerName.ADAMW_8BIT else _MOMENTS
    trained = weights.trained / shards
    copies = 0.0
    if is_sharded:  # two gathered blocks, and the weights outside the blocks, with gradients
        outside = model.language_model - model.num_blocks * model.block + model.connector
        gathered = _FLOAT if stage.precision is Precision.FLOAT32 else _HALF
        copies = (2 * model.block + outside) * (gathered + _FLOAT) if count > 1 else 0.0
    elif is_mixed:
        copies = _HALF * trained
    return {
        "frozen weights": frozen_size * (weights.frozen - quantised) + _NF4 * quantised,
        "trained weights": size * trained,
        "16-bit or gathered": copies,
        "gradients": size * trained,
        "optimizer": moments * trained * (size / _FLOAT if moments == _MOMENTS else 1.0),
    }


def _activation_bytes(
    stage: TrainingFields, model: Footprint, load: Load, setup: TrainingSetup
) -> dict[str, float]:
    tokens = float(stage.stream.micro_batch_tokens)
    size = _FLOAT if stage.precision is Precision.FLOAT32 else _HALF
    every = stage.compute.checkpoint_blocks
    recomputed = -(-model.num_blocks // every) if every else 0
    whole = model.num_blocks - recomputed + (1 if recomputed else 0)
    blocks = tokens * (whole * setup.saved_per_token + recomputed * model.hidden_size * size)
    loss_tokens = tokens * load.num_loss_tokens / max(load.num_tokens, 1.0)
    if stage.compute.loss_chunk:
        loss_tokens = min(loss_tokens, float(stage.compute.loss_chunk))
    images = tokens * load.num_images / max(load.num_tokens, 1.0)
    patches = images * model.num_image_tokens
    tower = images * model.image_bytes + patches * _TOWER_WORK * model.hidden_size
    return {
        "activations": blocks,
        "logits": loss_tokens * model.vocab_size * _LOGIT_BYTES,
        "tower at work": tower if setup.has_tower else 0.0,
    }


def _training_flops(
    stage: TrainingFields, model: Footprint, load: Load, setup: TrainingSetup
) -> float:
    is_full = stage.policy.language_model and stage.tuning.kind is TuningKind.FULL
    passes = 1 + (2 if is_full else 1)  # forward; gradients of inputs (and of weights)
    every = stage.compute.checkpoint_blocks
    again = -(-model.num_blocks // every) / model.num_blocks if every else 0.0
    matrices, attention = _block_flops(model, load)
    # Recomputation stops at the last activation needed: a block's last matrix isn't run again.
    last = model.num_blocks * model.hidden_size * model.inner_size / model.quantisable
    blocks = matrices * (passes + again * (1 - last)) + attention * (_ATTENTION_PASSES + again)
    head = 2.0 * load.num_loss_tokens * model.vocab_size * model.hidden_size
    head *= passes + (1 if stage.compute.loss_chunk else 0)
    adapters = (
        2.0 * 3 * load.num_tokens * model.adapters
        if stage.policy.language_model and not is_full
        else 0.0
    )
    connector = 2.0 * 3 * load.num_images * model.num_image_tokens * model.connector
    tower = model.image_flops * load.num_images if setup.has_tower else 0.0
    return blocks + head + adapters + connector + tower


def _block_flops(model: Footprint, load: Load) -> tuple[float, float]:
    """Return the forward FLOPs of the decoder blocks: matrices, and causal attention."""
    attention = 4.0 * model.hidden_size * load.document_tokens / 2 * model.num_blocks
    return load.num_tokens * 2.0 * model.quantisable, load.num_tokens * attention


def _with_reserve(memory: Mapping[str, float]) -> dict[str, float]:
    used = sum(memory.values())
    return {**memory, RESERVE: _RESERVE_BYTES + used * (_FRAGMENTS - 1)}


def activation_dtype(precision: Precision) -> torch.dtype:
    """Return the type of the activations."""
    return torch.float32 if precision is Precision.FLOAT32 else torch.bfloat16
