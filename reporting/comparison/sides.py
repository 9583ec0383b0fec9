"""Sides of a comparison: grids, or single cells of grids, and the places that they share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configuration.axes import AxisValue
from core.errors import ConfigError, unknown_name
from core.io.reading import reading
from pipeline.store.notes import read_grid_json
from reporting.records import CellRecord, GridRecord, load_grid
from reporting.settings import SEED, Setting, configured_axes

CELL_SEPARATOR = ":"
"""Stands between the name of a grid and that of a cell."""
LETTERS = "ABCDEFGH"


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A grid, or a cell with all its seeds."""

    letter: str
    name: str
    """As on the command line."""
    grid: GridRecord
    cells: tuple[CellRecord, ...]
    """The compared cells; of a whole grid, all."""
    is_cell: bool
    values: Mapping[str, str]
    """Configuration fields that all its cells share, as JSON; the overrides of the command."""

    def places(self) -> dict[Setting, list[CellRecord]]:
        """Return the finished cells by their axes except the seed."""
        found: dict[Setting, list[CellRecord]] = {}
        for cell in self.cells:
            if cell.evaluation is not None:
                found.setdefault(configured_axes(cell.axes), []).append(cell)
        return found


def load_sides(names: Sequence[str], root: Path) -> list[Side]:
    """Read the sides of a comparison.

    Args:
        names: GRID or GRID:CELL, where GRID is a name under the root or the path of a grid's
            folder, and CELL a cell id with or without its seed.
        root: Output folder of all runs.

    Raises:
        ConfigError: If a cell is unknown, or grids are compared with cells.
        DataError: If a grid does not exist, or is damaged.
    """
    sides = [_load_side(letter, name, root) for letter, name in zip(LETTERS, names, strict=False)]
    if len({side.is_cell for side in sides}) > 1:
        raise ConfigError("compare either grids or cells (GRID:CELL), not both")
    return sides


def _load_side(letter: str, name: str, root: Path) -> Side:
    text, _, cell = name.partition(CELL_SEPARATOR)
    given = Path(text).absolute()  # its parents are used
    folder = given if (given / "grid.json").is_file() else root / "grids" / text
    about = read_grid_json(folder, default={})
    experiment, profile = str(about.get("experiment", text)), str(about.get("profile", "embedded"))
    grid = load_grid(folder.parent.parent, experiment, profile, folder.name)
    cells = _find_cells(grid, cell) if cell else grid.cells
    with reading(folder / "grid.json", fix="run the grid again, which writes it"):
        values = {key: _to_text(value) for key, value in grid.common.items()}
        for override in about.get("overrides") or ():
            key, _, value = str(override).partition("=")
            values.setdefault(key, value)
    if cell:
        own = {_path_of(axis): value for axis, value in cells[0].axes.items() if axis != SEED}
        values |= {key: _to_text(value) for key, value in (own | dict(cells[0].fields)).items()}
    return Side(
        letter=letter, name=name, grid=grid, cells=tuple(cells), is_cell=bool(cell), values=values
    )


def _find_cells(grid: GridRecord, name: str) -> list[CellRecord]:
    """Return the cell with an id, or the seeds of the cell with an id without its seed."""
    exact = [cell for cell in grid.cells if cell.cell_id == name]
    seeds = [cell for cell in grid.cells if cell.cell_id.rpartition("_s")[0] == name]
    if found := exact or seeds:
        return found
    ids = [cell.cell_id for cell in grid.cells]
    raise ConfigError(unknown_name(f"cell of grid '{grid.name}'", name, ids))


def _path_of(axis: str) -> str:
    return axis if "." in axis else f"cell.{axis}"


def _to_text(value: AxisValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)
