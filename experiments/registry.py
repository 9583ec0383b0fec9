"""The experiments: every module of `experiments/grids`, found by its file."""

import dataclasses
import importlib
import itertools
import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache
from types import ModuleType

from configuration.axes import GridCell
from configuration.run_config import RunConfig
from core.errors import ConfigError, unknown_name
from experiments import grids


@cache
def experiments() -> dict[str, ModuleType]:
    """Return the modules of all experiments by name.

    A module either defines `cells(base) -> list[RunConfig]`, a grid over one configuration, or
    `load`, `build_graph` and `publish`, a recipe that trains no cells.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(grids.__path__))
    return {name: importlib.import_module(f"{grids.__name__}.{name}") for name in names}


def get_experiment(name: str) -> ModuleType:
    """Return the module of an experiment.

    Raises:
        ConfigError: If there is no such experiment; the message names the nearest one.
    """
    known = experiments()
    if name not in known:
        raise ConfigError(unknown_name("experiment", name, known, fix="See --list."))
    return known[name]


def is_grid(experiment: ModuleType) -> bool:
    """Return whether an experiment trains and compares cells."""
    return hasattr(experiment, "cells")


def questions() -> dict[str, str]:
    """Return the question of every experiment, the first line of its docstring; grids first."""
    modules = sorted(experiments().items(), key=lambda item: not is_grid(item[1]))
    return {name: (module.__doc__ or "").strip().splitlines()[0] for name, module in modules}


def with_seeds(cells: Iterable[RunConfig], num_seeds: int) -> list[RunConfig]:
    """Repeat every cell for `num_seeds` seeds, counted from the cell's own."""
    if num_seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {num_seeds}")
    return [
        dataclasses.replace(c, cell=dataclasses.replace(c.cell, seed=c.cell.seed + offset))
        for c, offset in itertools.product(cells, range(num_seeds))
    ]


def select(cells: Sequence[GridCell], patterns: Sequence[str]) -> list[GridCell]:
    """Return the cells whose id contains one of the patterns; all cells without a pattern.

    Raises:
        ConfigError: If no cell matches a pattern.
    """
    ids = [cell.cell_id for cell in cells]
    for pattern in patterns:
        if not any(pattern in cell_id for cell_id in ids):
            raise ConfigError(
                unknown_name("cell", pattern, ids, fix="--only takes a part of a cell id.")
            )
    return [
        cell for cell in cells if not patterns or any(part in cell.cell_id for part in patterns)
    ]
