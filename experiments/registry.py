"""Cells of a grid: the product of named axes over one configuration."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType

from configuration.run_config import RunConfig
from core.errors import ConfigError, unknown_name
from experiments.grids import (
    backbone_ablation,
    full_grid,
    mix_ablation,
    smoke,
    stage_ablation,
    text_only_ablation,
)

_MODULES: tuple[ModuleType, ...] = (
    smoke,
    mix_ablation,
    backbone_ablation,
    full_grid,
    stage_ablation,
    text_only_ablation,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A named grid: what it asks, and how it makes cells of one configuration."""

    name: str
    question: str
    cells: Callable[[RunConfig], list[RunConfig]]


def _load(module: ModuleType) -> Experiment:
    name = module.__name__.rsplit(".", 1)[-1]
    question = (module.__doc__ or "").strip().splitlines()[0]
    return Experiment(name=name, question=question, cells=module.cells)


EXPERIMENTS = {experiment.name: experiment for experiment in map(_load, _MODULES)}


def get_experiment(name: str, *, also: Iterable[str] = ()) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigError: no such experiment (with the nearest name).
    """
    if name not in EXPERIMENTS:
        known = [*EXPERIMENTS, *also]
        raise ConfigError(unknown_name("experiment", name, known, fix="See --list."))
    return EXPERIMENTS[name]


def with_seeds(cells: Iterable[RunConfig], num_seeds: int) -> list[RunConfig]:
    """Repeat every cell for seeds s, s+1, ... of its own seed s."""
    if num_seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {num_seeds}")
    offsets = range(num_seeds)
    return [
        dataclasses.replace(c, cell=dataclasses.replace(c.cell, seed=c.cell.seed + offset))
        for c, offset in itertools.product(cells, offsets)
    ]


def select(cells: Sequence[RunConfig], patterns: Sequence[str]) -> list[RunConfig]:
    """The cells whose id contains one of the patterns (all of them without a pattern).

    Raises:
        ConfigError: a pattern that no cell has.
    """
    ids = [config.cell.cell_id for config in cells]
    for pattern in patterns:
        if not any(pattern in cell_id for cell_id in ids):
            raise ConfigError(unknown_name("cell", pattern, ids, fix="--only takes a part of one."))
    return [
        config
        for config in cells
        if not patterns or any(pattern in config.cell.cell_id for pattern in patterns)
    ]
