"""The experiments: every module of `experiments/grids`, found by its file."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from types import ModuleType

from configuration.axes import GridCell, name_cells
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


def with_seeds(
    cells: Sequence[RunConfig], num_seeds: int, replicate: Sequence[str] = ()
) -> list[RunConfig]:
    """Repeat every cell for its number of seeds, counted from the cell's own.

    Args:
        cells: Configurations of the experiment.
        num_seeds: Seeds of every cell that `replicate` does not mention.
        replicate: Seeds of selected cells, as SELECTOR=N (`matches_selector`).

    Raises:
        ConfigError: If a number is less than 1, a selector matches no cell, or two selectors give
            a cell different numbers.
    """
    if num_seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {num_seeds}")
    numbers = [num_seeds] * len(cells)
    if replicate:
        numbers = _replications(name_cells(cells), num_seeds, replicate)
    return [
        dataclasses.replace(c, cell=dataclasses.replace(c.cell, seed=c.cell.seed + offset))
        for c, number in zip(cells, numbers, strict=True)
        for offset in range(number)
    ]


def matches_selector(cell: GridCell, selector: str) -> bool:
    """Return whether a selector of `--replicate` means a cell.

    A selector is a cell id, with or without its seed; AXIS=VALUE; or one or more consecutive parts
    of a cell id (`share20`, `share20_txt`). Parts match as a whole: share2 does not match share20.
    """
    axis, is_pair, value = selector.partition("=")
    if is_pair:
        return any(
            str(found).lower() == value.lower()
            for name, found in cell.axes.items()
            if f".{name}".endswith(f".{axis}")
        )
    return f"_{selector}_" in f"_{cell.cell_id}_"


def _replications(cells: Sequence[GridCell], num_seeds: int, replicate: Sequence[str]) -> list[int]:
    """Return the number of seeds of every cell."""
    numbers = dict.fromkeys((cell.cell_id for cell in cells), 0)
    for entry in replicate:
        selector, number = _parse_replication(entry)
        exact = [c for c in cells if selector in (c.cell_id, _without_seed(c))]
        matching = exact or [cell for cell in cells if matches_selector(cell, selector)]
        if not matching:
            fix = "Select a cell id, its parts (share20), or AXIS=VALUE (text_only=true)."
            raise ConfigError(unknown_name("selector of --replicate", selector, numbers, fix=fix))
        for cell in matching:
            if numbers[cell.cell_id] not in (0, number):
                raise ConfigError(
                    f"--replicate {entry}: cell '{cell.cell_id}' already has "
                    f"{numbers[cell.cell_id]} seeds by another selector; name single cells"
                )
            numbers[cell.cell_id] = number
    return [number or num_seeds for number in numbers.values()]


def _parse_replication(entry: str) -> tuple[str, int]:
    selector, _, number = entry.rpartition("=")
    if not selector or not number.isdecimal() or int(number) < 1:
        raise ConfigError(
            f"--replicate {entry}: expected SELECTOR=N with N of at least 1, e.g. share20=3"
        )
    return selector, int(number)


def _without_seed(cell: GridCell) -> str:
    return cell.cell_id.replace(f"_s{cell.config.cell.seed}", "", 1)


def select(cells: Sequence[GridCell], patterns: Sequence[str]) -> list[GridCell]:
    """Return the cells whose id contains one of the patterns; all cells without a pattern.

    Raises:
        ConfigError: If no cell matches a pattern.
    """
    ids = [cell.cell_id for cell in cells]
    for pattern in patterns:
        if not pattern or not any(pattern in cell_id for cell_id in ids):
            raise ConfigError(
                unknown_name("cell", pattern, ids, fix="--only takes a part of a cell id.")
            )
    return [
        cell for cell in cells if not patterns or any(part in cell.cell_id for part in patterns)
    ]
