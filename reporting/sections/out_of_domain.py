"""Scores on benchmarks whose images differ in kind from the training images, if there are any."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.shards.manifest import SUFFIX
from pipeline.store.records import StageRecord
from reporting.records import CellRecord, GridRecord
from reporting.sections.tables import ScoreTable, tabulate
from reporting.series import PANELS, View

_PANELS = tuple(panel for panel in PANELS if panel.key in ("vqa", "mc", "capqa"))
_STAGE = "out_of_domain"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfDomainSection:
    """Scores of all cells on the out-of-domain benchmarks."""

    benchmarks: str
    """Names of the benchmarks, the main one first."""
    scores: ScoreTable
    """Scores on the main one."""


def out_of_domain_section(grid: GridRecord, view: View) -> OutOfDomainSection | None:
    """Return the scores, or None if no cell has any."""
    found = {cell.cell_id: stage for cell in grid.cells if (stage := _result(cell)) is not None}
    if not found:
        return None
    first = next(iter(found.values()))
    names = [Path(path).name.removesuffix(SUFFIX) for path in first.config["benchmarks"]]
    scores = tabulate(_with_results(grid, found), view, _PANELS)
    return OutOfDomainSection(benchmarks=", ".join(names), scores=scores)


def _result(cell: CellRecord) -> StageRecord | None:
    stage = cell.stages.get(_STAGE)
    return stage if stage is not None and stage.scores else None


def _with_results(grid: GridRecord, found: Mapping[str, StageRecord]) -> GridRecord:
    """Return the grid with these results in place of its evaluations, which tables read."""
    cells = (
        replace(cell, stages={**cell.stages, "evaluate": found[cell.cell_id]})
        for cell in grid.cells
        if cell.cell_id in found
    )
    return replace(grid, cells=tuple(cells))
