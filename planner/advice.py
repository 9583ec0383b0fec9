"""What to change when a training stage does not fit on a GPU."""

import dataclasses
from collections.abc import Iterator

from core.errors import ConfigError
from lightning_modules.compute import StrategyName
from lightning_modules.lowbit import check_combination
from lightning_modules.optim import OptimizerName
from models.language.adapters import TuningKind
from pipeline.stages.graph import StageNode
from pipeline.stages.specs import StageKind, TrainSpec
from planner.estimator import Estimator

COUNTS = (1, 2, 4, 8, 16)
"""Numbers of GPUs that are looked at."""
_CHUNK = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WayOut:
    """Changes with which a stage fits."""

    overrides: tuple[str, ...]
    count: int
    """GPUs."""
    memory_gib: float


def ways_out(
    estimator: Estimator, node: StageNode, *, memory_gib: float, count: int
) -> list[WayOut]:
    """From the mildest change, on however many GPUs it takes, to one for so many GPUs as given."""
    if not isinstance(node.spec, TrainSpec):
        return []
    found: list[WayOut] = []
    for spec in _variants(node.spec, node.kind):
        fewest = _fewest(estimator, node, spec, memory_gib=memory_gib, count=count)
        if fewest is None or (found and fewest.count >= found[-1].count):
            continue  # a harsher change must at least need fewer GPUs
        found.append(fewest)
        if fewest.count <= count:
            break
    return found


def _fewest(
    estimator: Estimator, node: StageNode, spec: TrainSpec, *, memory_gib: float, count: int
) -> WayOut | None:
    is_sharded = spec.compute.strategy.is_sharded
    counts = [count, *(n for n in COUNTS if n > count)] if is_sharded else [count]
    for number in counts:  # more copies of the same make no room
        cost = estimator.cost(node, count=number, spec=spec)
        if cost is not None and cost.memory_gib <= memory_gib:
            words = _words(node, spec)
            if number != count:
                words = (f"trainer.devices={number}", *words)
            return WayOut(overrides=words, count=number, memory_gib=cost.memory_gib)
    return None


def _variants(spec: TrainSpec, kind: StageKind) -> Iterator[TrainSpec]:
    """The stage as it is, with less in memory at a time, sharded, in 16 bits, with adapters."""
    yield spec
    chunked = _change(spec, loss_chunk=spec.compute.loss_chunk or _CHUNK)
    yield chunked
    small = _change(chunked, checkpoint_blocks=1)
    yield small
    if kind is not StageKind.INSTRUCT:
        return
    harsh = [
        _change(small, strategy=StrategyName.FSDP2),
        dataclasses.replace(
            _change(small, strategy=StrategyName.AUTO),
            optim=dataclasses.replace(spec.optim, optimizer=OptimizerName.ADAMW_8BIT),
            precision="bf16-true",
        ),
        *(
            dataclasses.replace(
                _change(small, strategy=StrategyName.AUTO),
                tuning=dataclasses.replace(spec.tuning, kind=tuning),
            )
            for tuning in (TuningKind.LORA, TuningKind.QLORA)
        ),
    ]
    yield from filter(_is_sound, harsh)


def _is_sound(spec: TrainSpec) -> bool:
    try:
        check_combination(
            "stage",
            optimizer=spec.optim.optimizer,
            tuning=spec.tuning.kind,
            strategy=spec.compute.strategy,
            trains_language_model=True,
        )
    except ConfigError:
        return False
    return True


def _change(spec: TrainSpec, **changes: int | StrategyName) -> TrainSpec:
    compute = dataclasses.replace(spec.compute, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(spec, compute=compute)


def _words(node: StageNode, spec: TrainSpec) -> tuple[str, ...]:
    """What to write behind --set to get from a stage's spec to another."""
    old = node.spec
    if not isinstance(old, TrainSpec):
        raise TypeError(f"stage '{node.kind}' trains nothing")
    pairs = [("trainer.precision", old.precision, spec.precision)]
    for section in ("compute", "optim", "tuning"):
        before, after = getattr(old, section), getattr(spec, section)
        pairs += [
            (f"{node.kind}.{section}.{field.name}", getattr(before, field.name),
             getattr(after, field.name))
            for field in dataclasses.fields(before)
        ]  # fmt: skip
    return tuple(f"{name}={after}" for name, before, after in pairs if before != after)
