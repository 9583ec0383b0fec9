"""Configuration changes that make a training stage fit into GPU memory."""

import dataclasses
from collections.abc import Iterator

from core.errors import ConfigError
from core.precision import Precision
from lightning_modules.compute import StrategyName
from lightning_modules.lowbit import check_combination
from lightning_modules.optim import OptimizerName
from models.language.adapters import TuningKind
from pipeline.graph import StageNode
from pipeline.stages.training import TrainingStage
from planner.estimator import Estimator

GPU_COUNTS = (1, 2, 4, 8, 16)
"""Candidate numbers of GPUs."""
_LOSS_CHUNK = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemoryFix:
    """Set of configuration changes that makes a stage fit into GPU memory."""

    overrides: tuple[str, ...]
    count: int
    """Number of GPUs."""
    memory_gib: float


def memory_fixes(
    estimator: Estimator, node: StageNode, *, memory_gib: float, count: int
) -> list[MemoryFix]:
    """Return fixes from the mildest, on any number of GPUs, to one that needs `count` GPUs."""
    if not isinstance(node.stage, TrainingStage):
        return []
    found: list[MemoryFix] = []
    for stage in _variants(node.stage):
        fix = _smallest_fix(estimator, node, stage, memory_gib=memory_gib, count=count)
        if fix is None or (found and fix.count >= found[-1].count):
            continue  # a harsher change must at least need fewer GPUs
        found.append(fix)
        if fix.count <= count:
            break
    return found


def _smallest_fix(
    estimator: Estimator, node: StageNode, stage: TrainingStage, *, memory_gib: float, count: int
) -> MemoryFix | None:
    """Return the fix with the fewest GPUs on which a variant of the stage fits."""
    is_sharded = stage.compute.strategy.is_sharded
    counts = [count, *(n for n in GPU_COUNTS if n > count)] if is_sharded else [count]
    variant = dataclasses.replace(node, stage=stage)
    for number in counts:  # without sharding, more GPUs hold more copies of the same weights
        cost = variant.estimate(estimator, count=number).cost
        if cost is not None and cost.memory_gib <= memory_gib:
            overrides = _overrides(node.stage, stage)
            if number != count:
                overrides = (f"trainer.devices={number}", *overrides)
            return MemoryFix(overrides=overrides, count=number, memory_gib=cost.memory_gib)
    return None


def _variants(stage: TrainingStage) -> Iterator[TrainingStage]:
    """Yield the unchanged stage, then variants with less memory, sharding, 16 bits or adapters."""
    yield stage
    chunked = _with_compute(stage, loss_chunk=stage.compute.loss_chunk or _LOSS_CHUNK)
    yield chunked
    small = _with_compute(chunked, checkpoint_blocks=1)
    yield small
    if not stage.policy.language_model:
        return
    unsharded = _with_compute(small, strategy=StrategyName.AUTO)
    harsher = [
        _with_compute(small, strategy=StrategyName.FSDP2),
        dataclasses.replace(
            unsharded,
            optim=dataclasses.replace(stage.optim, optimizer=OptimizerName.ADAMW_8BIT),
            precision=Precision.BF16_TRUE,
        ),
        *(
            dataclasses.replace(unsharded, tuning=dataclasses.replace(stage.tuning, kind=kind))
            for kind in (TuningKind.LORA, TuningKind.QLORA)
        ),
    ]
    yield from filter(_is_supported, harsher)


def _is_supported(stage: TrainingStage) -> bool:
    try:
        check_combination(
            stage.kind,
            optimizer=stage.optim.optimizer,
            tuning=stage.tuning.kind,
            strategy=stage.compute.strategy,
            precision=stage.precision,
            trains_language_model=stage.policy.language_model,
        )
    except ConfigError:
        return False
    return True


def _with_compute(stage: TrainingStage, **changes: int | StrategyName) -> TrainingStage:
    compute = dataclasses.replace(stage.compute, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(stage, compute=compute)


def _overrides(before: object, stage: TrainingStage) -> tuple[str, ...]:
    """Return the `--set` values that turn one stage into another."""
    if not isinstance(before, TrainingStage):
        raise TypeError(f"expected a training stage, got {type(before).__name__}")
    pairs = [("trainer.precision", before.precision, stage.precision)]
    for section in ("compute", "optim", "tuning"):
        old, new = getattr(before, section), getattr(stage, section)
        pairs += [
            (f"{stage.kind}.{section}.{field.name}", getattr(old, field.name),
             getattr(new, field.name))
            for field in dataclasses.fields(old)
        ]  # fmt: skip
    return tuple(f"{name}={after}" for name, old, after in pairs if old != after)
