"""The experiments: every module of `experiments/grids`, and files of a user."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from configuration.axes import GridCell, is_value, name_cells
from configuration.grid_request import GridRequest
from configuration.run_config import RunConfig
from core.errors import ConfigError, unknown_name
from experiments import grids
from experiments.experiment_files import (
    check_experiment,
    describe_fault,
    load_experiment_file,
)


@cache
def experiment_names() -> tuple[str, ...]:
    """Return the names of the experiments of this repository."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(grids.__path__)))


def get_experiment(name: str, file: Path | None = None) -> ModuleType:
    """Return the module of an experiment.

    It either defines `cells(base) -> list[RunConfig]`, a grid over one configuration, or `load`,
    `build_graph` and `publish`, a recipe that trains no cells.

    Args:
        name: Name of the experiment.
        file: File that defines it; None for an experiment of this repository.

    Raises:
        ConfigError: If there is no such experiment, in which case the message names the nearest
            one, or if it can't be loaded.
    """
    if file is not None:
        shipped = Path(grids.__path__[0]) / f"{name}.py"
        if not (shipped.is_file() and file.is_file() and file.samefile(shipped)):
            return load_experiment_file(file, experiment_names())
    if name not in experiment_names():
        fix = "See --list; a file of your own is --exp path/to/FILE.py."
        raise ConfigError(unknown_name("experiment", name, experiment_names(), fix=fix))
    return _load_shipped(name)


@cache
def _load_shipped(name: str) -> ModuleType:
    path = Path(grids.__path__[0]) / f"{name}.py"
    try:
        module = importlib.import_module(f"{grids.__name__}.{name}")
    except Exception as error:
        raise ConfigError(describe_fault(error, path)) from error
    check_experiment(module, str(path))
    return module


def is_grid(experiment: ModuleType) -> bool:
    """Return whether an experiment trains and compares cells."""
    return hasattr(experiment, "cells")


def questions(exp: str = "") -> dict[str, str]:
    """Return the question of every experiment, the first line of its docstring; grids first.

    Args:
        exp: Value of `--exp`; the question of a file comes first.
    """
    modules = [(name, _load_shipped(name)) for name in experiment_names()]
    modules.sort(key=lambda item: not is_grid(item[1]))
    name, file = GridRequest.split_experiment(exp)
    if file is not None:
        modules.insert(0, (exp, get_experiment(name, file)))
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
    if "=" in selector:
        return _has_value(cell, selector)
    return f"_{selector}_" in f"_{cell.cell_id}_"


def _has_value(cell: GridCell, pair: str) -> bool:
    """Return whether a cell has the value of AXIS=VALUE, on an axis or in a field of a variant."""
    axis, _, value = pair.partition("=")
    known = cell.axes | cell.fields
    return any(
        is_value(found, value) for name, found in known.items() if f".{name}".endswith(f".{axis}")
    )


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
    """Return the cells that one of the patterns of `--only` means; all cells without a pattern.

    A pattern is a text that a cell id contains, or AXIS=VALUE.

    Raises:
        ConfigError: If no cell matches a pattern.
    """
    matching = {pattern: [c for c in cells if _contains(c, pattern)] for pattern in patterns}
    for pattern, found in matching.items():
        if not found:
            ids = [cell.cell_id for cell in cells]
            fix = "--only takes a part of a cell id, or AXIS=VALUE."
            raise ConfigError(unknown_name("cell", pattern, ids, fix=fix))
    return [cell for cell in cells if not patterns or any(cell in x for x in matching.values())]


def _contains(cell: GridCell, pattern: str) -> bool:
    return bool(pattern) and (
        pattern in cell.cell_id or ("=" in pattern and _has_value(cell, pattern))
    )
