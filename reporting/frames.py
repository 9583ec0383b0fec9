"""Results of a grid as pandas tables, for notebooks and scripts."""

import io
import warnings
from pathlib import Path

import pandas as pd

from core.errors import DataError
from evaluation.benchmarks.predictions import read_predictions
from reporting.records import CellRecord, GridRecord, load_grid
from reporting.sections.tables import cells_csv


def load_scores(
    experiment: str, *, profile: str = "embedded", root: str | Path = "mlruns", name: str = ""
) -> pd.DataFrame:
    """Return one row per finished cell and metric; a warning names the other cells.

    Args:
        experiment: Name of the experiment.
        profile: Profile of the grid.
        root: Output folder of all runs.
        name: Name of the grid, if it was given one.

    Returns:
        `cell_id`, one column per axis, `metric`, `value` and, where they apply, its 95 % interval
        (`ci_low`, `ci_high`; images resampled), `n`, `num_images`, the baselines `majority`,
        `blind` and `chance`, and p-values that the score exceeds them. Values are those of
        `metrics.json`: accuracies in percent.

    Raises:
        DataError: If there is no such grid, or one of its files is damaged.
    """
    grid = load_grid(Path(root), experiment, profile, name)
    _warn_of_unfinished(grid)
    return pd.read_csv(io.StringIO(cells_csv(grid)))


def load_questions(
    experiment: str, *, profile: str = "embedded", root: str | Path = "mlruns", name: str = ""
) -> pd.DataFrame:
    """Return one row per finished cell and question; a warning names the other cells.

    Args:
        experiment: Name of the experiment.
        profile: Profile of the grid.
        root: Output folder of all runs.
        name: Name of the grid, if it was given one.

    Returns:
        `cell_id`, one column per axis, and the columns of `predictions.parquet`: question, prompt,
        reply, scores between 0 and 1, and the same for a blank image.

    Raises:
        DataError: If there is no such grid, no cell is finished, or a file is damaged.
    """
    grid = load_grid(Path(root), experiment, profile, name)
    tables = [_questions_of(cell) for cell in grid.cells if cell.evaluation is not None]
    if not tables:
        raise DataError(f"no cell of {grid.folder} is finished")
    _warn_of_unfinished(grid)
    return pd.concat(tables, ignore_index=True)


def _warn_of_unfinished(grid: GridRecord) -> None:
    missing = [cell.cell_id for cell in grid.cells if cell.evaluation is None]
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(grid.cells)} cells are not finished and are left out: "
            f"{', '.join(missing)}",
            stacklevel=3,
        )


def _questions_of(cell: CellRecord) -> pd.DataFrame:
    if cell.evaluation is None:
        raise ValueError(f"{cell.cell_id} has no evaluation")
    frame = read_predictions(cell.evaluation.predictions).to_pandas()
    for place, (name, value) in enumerate({"cell_id": cell.cell_id, **cell.axes}.items()):
        frame.insert(place, name, value)
    return frame
