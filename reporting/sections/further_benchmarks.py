"""Scores on the benchmarks of a grid besides the main one, such as that of withheld names."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from reporting.records import GridRecord
from reporting.sections.tables import ScoreTable, tabulate
from reporting.series import PANELS, Panel, View


@dataclass(frozen=True, kw_only=True, slots=True)
class FurtherBenchmark:
    """Scores of all cells on a benchmark besides the main one."""

    name: str
    scores: ScoreTable


def further_names(grid: GridRecord) -> tuple[str, ...]:
    """Return the names of the benchmarks besides the main one."""
    return tuple(Path(path).name for path in grid.benchmarks[1:])


def further_benchmarks(grid: GridRecord, view: View) -> Iterator[FurtherBenchmark]:
    """Yield the scores on each further benchmark that some cell was asked."""
    for name in further_names(grid):
        scores = tabulate(grid, view, [_panel_on(name, panel) for panel in PANELS])
        if scores.columns:
            yield FurtherBenchmark(name=name, scores=scores)


def _panel_on(name: str, panel: Panel) -> Panel:
    """Return a panel for a further benchmark, whose metrics have its name in front."""
    return replace(
        panel,
        metric=f"{name}/{panel.metric}",
        query=panel.query and replace(panel.query, dataset=name),
        unparsed=panel.unparsed and f"{name}/{panel.unparsed}",
        refusals=panel.refusals and f"{name}/{panel.refusals}",
    )
