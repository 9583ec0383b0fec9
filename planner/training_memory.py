"""Memory of a training step on each GPU, by part.

Weights, gradients and the state of the optimizer are there all the time. On top of them, the peak
is at one of three moments: while the tower works, at the end of the loss, or at the start of the
backward pass of the blocks. `planner.trace` checks the formulas on fake tensors.
"""

import dataclasses

from core.precision import Precision
from lightning_modules.optim import OptimizerName
from models.accounting.footprint import Footprint
from models.accounting.kept import BlockMemory
from models.freezing import FreezePolicy
from models.language.adapters import TuningKind
from planner.training_fields import TrainingFields
from planner.workload import Load

_FLOAT, _HALF = 4.0, 2.0
_NF4 = 0.516
"""Bytes of a 4-bit weight with its constants (docs/running/gpus.md)."""
_MOMENTS = 2
_MOMENTS_8BIT = 2.03
"""Bytes of both moments of a weight in 8 bits, with their constants."""
_LOGIT_BYTES = 12.0
"""Bytes per loss token and vocabulary entry: 16-bit logits, float32 logits, their gradient, and the
16-bit copy of the gradient."""
_TOWER_WORK = 16.0
"""Bytes per patch token and unit of width that the forward pass of a tower needs at once."""
_GATHERED_BLOCKS = 2
"""Blocks whose weights FSDP2 holds at once: the one that computes and the next one."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Numbers of trained and frozen weights."""

    trained: int
    frozen: int


def weights_of(model: Footprint, tuning: TuningKind, policy: FreezePolicy) -> Weights:
    """Return how many weights a stage trains."""
    trained = (model.tower if policy.tower else 0) + (model.connector if policy.connector else 0)
    if policy.language_model:
        trained += model.language_model if tuning is TuningKind.FULL else model.adapters
    adapters = model.adapters if policy.language_model else 0
    total = model.tower + model.connector + model.language_model + adapters
    return Weights(trained=trained, frozen=total - trained)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSetup:
    """Execution settings that affect the cost of a training stage."""

    has_tower: bool
    """Whether the tower runs in every step (no feature cache)."""
    block: BlockMemory
    """Memory of a decoder block with the tokens of a micro-batch."""
    count: int
    """GPUs that share the stage."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Sizes:
    """Sizes that follow from the settings of a stage."""

    is_sharded: bool
    """Whether a GPU holds only a shard of the trained weights."""
    trains_all: bool
    """Whether all weights of the language model are trained, not adapters or nothing."""
    weight: float
    """Bytes of a trained weight, its gradient, or one of its moments."""
    compute: float
    """Bytes of a weight in a matrix product."""

    @classmethod
    def of(cls, stage: TrainingFields) -> "_Sizes":
        learns = stage.policy.language_model
        is_full = stage.tuning.kind is TuningKind.FULL
        return cls(
            is_sharded=learns and stage.compute.strategy.is_sharded,
            trains_all=learns and is_full,
            weight=_HALF if stage.precision is Precision.BF16_TRUE else _FLOAT,
            compute=_FLOAT if stage.precision is Precision.FLOAT32 else _HALF,
        )


def training_memory(
    stage: TrainingFields, model: Footprint, load: Load, setup: TrainingSetup
) -> dict[str, float]:
    """Return the bytes of every part at the peak of a step, without a reserve."""
    sizes = _Sizes.of(stage)
    kept = _kept_bytes(stage, model, setup) + _connector_bytes(stage, sizes, model, load)
    moments = [{"tower": _tower_bytes(stage, model, load)}] if setup.has_tower else []
    vision = _kept_by_tower(stage, sizes, model, load)
    moments += [
        {"activations": kept, **vision, **moment}
        for moment in (
            *_loss_moments(stage, sizes, model, load, setup),
            _backward_moment(stage, sizes, model, setup),
        )
    ]
    peak = max(moments, key=lambda moment: sum(moment.values()))
    return _state_bytes(stage, sizes, model, setup) | peak


def _state_bytes(
    stage: TrainingFields, sizes: _Sizes, model: Footprint, setup: TrainingSetup
) -> dict[str, float]:
    """Return weights, gradients and moments, which exist in the whole step."""
    kind = stage.tuning.kind
    weights = weights_of(model, kind, stage.policy)
    quantised = model.quantisable if kind is TuningKind.QLORA else 0
    trained = weights.trained / (setup.count if sizes.is_sharded else 1)
    is_8bit = stage.optim.optimizer is OptimizerName.ADAMW_8BIT
    waits = stage.compute.reduce_once and setup.count > 1
    return {
        "frozen weights": sizes.compute * (weights.frozen - quantised) + _NF4 * quantised,
        "trained weights": sizes.weight * trained,
        "gradients": sizes.weight * trained,
        "unreduced gradients": _FLOAT * weights.trained if waits else 0.0,
        "optimizer": trained * (_MOMENTS_8BIT if is_8bit else _MOMENTS * sizes.weight),
    }


def _kept_bytes(stage: TrainingFields, model: Footprint, setup: TrainingSetup) -> float:
    """Return what all blocks keep between forward and backward pass."""
    every = stage.compute.checkpoint_blocks
    recomputed = -(-model.num_blocks // every) if every else 0
    whole = model.num_blocks - recomputed
    return float(whole * setup.block.kept + recomputed * setup.block.inputs)


def _connector_bytes(stage: TrainingFields, sizes: _Sizes, model: Footprint, load: Load) -> float:
    """Return what a connector inside the decoder keeps; recomputed with the blocks it precedes."""
    if stage.compute.checkpoint_blocks == 1:
        return 0.0
    per_token = load.num_images * load.document_tokens / max(load.num_tokens, 1.0)
    tokens = stage.stream.micro_batch_tokens * min(per_token, 1.0)
    return tokens * model.connector_token_values * sizes.compute


def _loss_moments(
    stage: TrainingFields, sizes: _Sizes, model: Footprint, load: Load, setup: TrainingSetup
) -> list[dict[str, float]]:
    """Return the moments of the last logits, and of the gradient of the output layer."""
    tokens = stage.stream.micro_batch_tokens * load.num_loss_tokens / max(load.num_tokens, 1.0)
    if stage.compute.loss_chunk:
        tokens = min(tokens, float(stage.compute.loss_chunk))
    logits = tokens * model.vocab_size * _LOGIT_BYTES
    layer = model.output_layer * sizes.compute
    if not sizes.trains_all:
        return [{"loss": logits}]
    if not sizes.is_sharded:
        if sizes.weight == sizes.compute:
            return [{"loss": max(logits, layer)}]
        cast_gradient = layer + model.output_layer * sizes.weight
        return [{"loss": max(logits + layer, cast_gradient)}]
    moments = [{"loss": logits + layer, "gathered weights": layer}]
    if model.has_tied_embeddings:  # in the root group, whose gradients are reduced at the end
        return moments
    reduced = _reduced_bytes(sizes, model.output_layer, setup.count)
    if setup.count == 1:
        return [*moments, {"reduced gradients": reduced}]
    next_block = model.block * sizes.compute
    return [
        *moments,
        {"loss": layer, "gathered weights": next_block, "reduced gradients": reduced},
    ]


def _backward_moment(
    stage: TrainingFields, sizes: _Sizes, model: Footprint, setup: TrainingSetup
) -> dict[str, float]:
    """Return the moment at which the last block goes backward."""
    again = setup.block.kept - setup.block.inputs if stage.compute.checkpoint_blocks else 0
    moment = {"backward": float(setup.block.working + again)}
    if not (sizes.is_sharded and sizes.trains_all):
        return moment
    layer = model.output_layer * sizes.compute
    if model.has_tied_embeddings:
        moment["gathered weights"] = _GATHERED_BLOCKS * model.block * sizes.compute + layer
        moment["loss"] = layer
    elif setup.count > 1:
        moment["gathered weights"] = _GATHERED_BLOCKS * model.block * sizes.compute
        moment["reduced gradients"] = model.output_layer * _FLOAT
    else:
        moment["gathered weights"] = model.block * sizes.compute
        moment["reduced gradients"] = model.output_layer * _FLOAT
    return moment


def _reduced_bytes(sizes: _Sizes, num_weights: int, count: int) -> float:
    """Return the buffers in which FSDP2 reduces gradients: float32 in and out, and the result."""
    result = 0.0 if sizes.weight == _FLOAT else sizes.weight
    return num_weights * (_FLOAT + (_FLOAT + result) / count)


def _kept_by_tower(
    stage: TrainingFields, sizes: _Sizes, model: Footprint, load: Load
) -> dict[str, float]:
    """Return what a trained vision encoder keeps for the backward pass; no trace checks this."""
    if not stage.policy.tower:
        return {}
    images = stage.stream.micro_batch_tokens * load.num_images / max(load.num_tokens, 1.0)
    return {"tower activations": images * model.image_kept * sizes.compute}


def _tower_bytes(stage: TrainingFields, model: Footprint, load: Load) -> float:
    images = stage.stream.micro_batch_tokens * load.num_images / max(load.num_tokens, 1.0)
    patches = images * model.num_features
    return images * model.image_bytes + patches * _TOWER_WORK * model.hidden_size
