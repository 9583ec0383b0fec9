"""What a stage costs on GPUs: memory by part, floating point operations, hours.

Formulas and what they leave out: docs/reference/planner.md.
"""

import dataclasses
from collections.abc import Mapping

import torch

from configuration.run_config import EvaluationWeights
from lightning_modules.optim import OptimizerName
from models.accounting.footprint import Footprint
from models.language.adapters import TuningKind
from pipeline.stages.specs import EvaluateSpec, RetentionSpec, TrainSpec
from planner.gpus import GIB, Gpu
from planner.workload import Load

_FLOAT, _HALF = 4.0, 2.0
_NF4 = 0.516
"""Bytes of a 4-bit weight with its constants (docs/running/gpus.md)."""
_MOMENTS, _MOMENTS_8BIT = 8.0, 2.03
_LOGIT_BYTES = 12.0
"""Per target and word: 16-bit logits, float32 logits, their gradient, and its 16-bit copy."""
_TOWER_WORK = 16.0
"""Bytes per patch token and unit of width that a tower's forward pass needs at once."""
_RESERVE_BYTES = 2.0 * GIB
"""CUDA's context, libraries, workspaces."""
_FRAGMENTS = 1.06
"""What the allocator wastes."""
_PROCESS_GIB = 8.0
"""Main memory of libraries, loaders and the data's index: assumed, not measured."""
_ON_HOST = ("frozen weights", "trained weights", "optimizer")
_ATTENTION_PASSES = 3
_EVALUATION_COPIES = 6
_TASK_DOCUMENTS, _DOCUMENT_TOKENS = 3000, 150
"""Assumed of a task of lm-eval."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one stage run."""

    flops: float
    """Executed, recomputed ones included."""
    memory: Mapping[str, float]
    """Part -> bytes on each GPU."""
    read_bytes: float = 0.0
    """That pass through memory one after the other while answers are written, word by word."""

    @property
    def host_gib(self) -> float:
        """Main memory of one of its processes, generously.

        What the GPU holds of weights and optimizer passes through here when it is loaded, and
        stays as a copy while a checkpoint is written in the background.
        """
        return _PROCESS_GIB + sum(self.memory.get(part, 0.0) for part in _ON_HOST) / GIB

    @property
    def memory_gib(self) -> float:
        """All parts together."""
        return sum(self.memory.values()) / GIB

    def seconds(self, gpu: Gpu, hidden_size: int, count: int) -> float:
        """Assumed time on `count` GPUs."""
        return self.flops / gpu.speed(hidden_size, count) + self.read_bytes / gpu.bandwidth


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Numbers of weights by what happens to them."""

    trained: int
    frozen: int


def weights_of(model: Footprint, tuning: TuningKind, *, learns: bool) -> Weights:
    """What a stage trains; the tower never learns."""
    trained = model.connector
    if learns:
        trained += model.language_model if tuning is TuningKind.FULL else model.adapters
    adapters = model.adapters if learns else 0
    total = model.tower + model.connector + model.language_model + adapters
    return Weights(trained=trained, frozen=total - trained)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """Under which a training stage runs."""

    learns: bool
    """Whether the language model does."""
    has_tower: bool
    """Whether the tower runs in every step (no feature cache)."""
    saved_per_token: float
    """Bytes that a decoder block keeps per token (`models.accounting.footprint`)."""
    count: int
    """GPUs that share the stage."""


def training_cost(spec: TrainSpec, model: Footprint, load: Load, how: Circumstances) -> Cost:
    """A training stage; `model` is counted with its tuning."""
    memory = _weight_bytes(spec, model, learns=how.learns, count=how.count)
    memory |= _activation_bytes(spec, model, load, how)
    return Cost(flops=_training_flops(spec, model, load, how), memory=_with_reserve(memory))


def evaluation_cost(spec: EvaluateSpec, model: Footprint, load: Load, *, has_tower: bool) -> Cost:
    """One model asked everything; on one GPU."""
    settings = spec.settings
    size = _HALF if settings.weights is EvaluationWeights.BFLOAT16 else _FLOAT
    language_model = model.language_model * size
    at_once = settings.batch_size * (load.document_tokens + settings.max_new_tokens)
    widths = _EVALUATION_COPIES * model.hidden_size + 3 * model.inner_size
    memory = {
        "frozen weights": (model.tower + model.connector) * size + language_model,
        "activations": at_once * widths * size,
        "keys, values": at_once * model.num_blocks * model.cache_width * size,
    }
    num_batches = load.num_samples / settings.batch_size
    images = model.image_flops * load.num_images if has_tower else 0.0
    return Cost(
        flops=sum(_block_flops(model, load)) + images,
        memory=_with_reserve(memory),
        read_bytes=num_batches * settings.max_new_tokens * language_model,
    )


def features_cost(image_flops: float, num_images: int) -> Cost:
    """The tower once over every image."""
    return Cost(flops=image_flops * num_images, memory=_with_reserve({}))


def retention_cost(spec: RetentionSpec, model: Footprint) -> Cost:
    """The language model alone; what lm-eval's tasks hold is not known before they are fetched."""
    settings = spec.settings
    documents = settings.limit or _TASK_DOCUMENTS
    tokens = len(settings.tasks) * documents * _DOCUMENT_TOKENS
    load = Load(num_samples=len(settings.tasks) * documents, num_tokens=tokens)
    at_once = settings.batch_size * _DOCUMENT_TOKENS
    logits = at_once * model.vocab_size * _FLOAT * 2
    memory = {"frozen weights": model.language_model * _FLOAT, "logits": logits}
    head = 2.0 * tokens * model.vocab_size * model.hidden_size
    return Cost(flops=sum(_block_flops(model, load)) + head, memory=_with_reserve(memory))


def _weight_bytes(
    spec: TrainSpec, model: Footprint, *, learns: bool, count: int
) -> dict[str, float]:
    weights = weights_of(model, spec.tuning.kind, learns=learns)
    is_mixed, is_half = spec.precision == "bf16-mixed", spec.precision == "bf16-true"
    is_sharded = spec.compute.strategy.is_sharded and learns
    shards = count if is_sharded else 1
    has_adapters = learns and spec.tuning.kind is not TuningKind.FULL
    size = _HALF if is_half and not has_adapters else _FLOAT
    frozen_size = _FLOAT if spec.precision == "32-true" else _HALF
    quantised = model.quantisable if spec.tuning.kind is TuningKind.QLORA else 0
    moments = _MOMENTS_8BIT if spec.optim.optimizer is OptimizerName.ADAMW_8BIT else _MOMENTS
    trained = weights.trained / shards
    copies = 0.0
    if is_sharded:  # two gathered blocks, and what lies outside the blocks, with gradients
        outside = model.language_model - model.num_blocks * model.block + model.connector
        gathered = _FLOAT if spec.precision == "32-true" else _HALF
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
    spec: TrainSpec, model: Footprint, load: Load, how: Circumstances
) -> dict[str, float]:
    tokens = float(spec.stream.micro_batch_tokens)
    size = _FLOAT if spec.precision == "32-true" else _HALF
    every = spec.compute.checkpoint_blocks
    recomputed = -(-model.num_blocks // every) if every else 0
    whole = model.num_blocks - recomputed + (1 if recomputed else 0)
    blocks = tokens * (whole * how.saved_per_token + recomputed * model.hidden_size * size)
    loss_tokens = tokens * load.num_loss_tokens / max(load.num_tokens, 1.0)
    if spec.compute.loss_chunk:
        loss_tokens = min(loss_tokens, float(spec.compute.loss_chunk))
    images = tokens * load.num_images / max(load.num_tokens, 1.0)
    patches = images * model.num_image_tokens
    tower = images * model.image_bytes + patches * _TOWER_WORK * model.hidden_size
    return {
        "activations": blocks,
        "logits": loss_tokens * model.vocab_size * _LOGIT_BYTES,
        "tower at work": tower if how.has_tower else 0.0,
    }


def _training_flops(spec: TrainSpec, model: Footprint, load: Load, how: Circumstances) -> float:
    is_full = how.learns and spec.tuning.kind is TuningKind.FULL
    passes = 1 + (2 if is_full else 1)  # forward; gradients of inputs (and of weights)
    every = spec.compute.checkpoint_blocks
    again = -(-model.num_blocks // every) / model.num_blocks if every else 0.0
    matrices, attention = _block_flops(model, load)
    # Recomputing stops at the last number that is needed: the block's last matrix isn't run again.
    last = model.num_blocks * model.hidden_size * model.inner_size / model.quantisable
    blocks = matrices * (passes + again * (1 - last)) + attention * (_ATTENTION_PASSES + again)
    head = 2.0 * load.num_loss_tokens * model.vocab_size * model.hidden_size
    head *= passes + (1 if spec.compute.loss_chunk else 0)
    adapters = 2.0 * 3 * load.num_tokens * model.adapters if how.learns and not is_full else 0.0
    connector = 2.0 * 3 * load.num_images * model.num_image_tokens * model.connector
    tower = model.image_flops * load.num_images if how.has_tower else 0.0
    return blocks + head + adapters + connector + tower


def _block_flops(model: Footprint, load: Load) -> tuple[float, float]:
    """Forward pass of all decoder blocks: matrices, and causal attention within a sample."""
    attention = 4.0 * model.hidden_size * load.document_tokens / 2 * model.num_blocks
    return load.num_tokens * 2.0 * model.quantisable, load.num_tokens * attention


def _with_reserve(memory: Mapping[str, float]) -> dict[str, float]:
    used = sum(memory.values())
    return {**memory, "reserve": _RESERVE_BYTES + used * (_FRAGMENTS - 1)}


def activation_dtype(precision: str) -> torch.dtype:
    """Type of the activations under a Lightning precision."""
    return torch.float32 if precision == "32-true" else torch.bfloat16
