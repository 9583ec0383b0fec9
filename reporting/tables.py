"""Tables of a report: scores, fidelity, retention, sanity checks and stage runs, and the CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.store.records import StageRecord
from pipeline.store.states import State
from reporting.records import CellRecord, GridRecord
from reporting.series import FIDELITY_PANEL, PANELS, REFERENCE_SHARE, Panel, Point, View, lines
from reporting.settings import format_percent, format_value, setting_of, share_of

_MINUTE, _HOUR = 60, 3600
_HEADLINES = tuple(panel for panel in PANELS if panel.key in ("vqa", "mc", "capqa"))
_NORMAL_95 = 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreColumn:
    """A column of scores: one panel in one language."""

    title: str
    language: str
    is_target: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """Scores of one setting at one share, averaged over seeds."""

    share: str
    values: tuple[str, ...]
    """Value of each varying axis."""
    is_marked: bool
    """Whether the share is the reference share of the study."""
    points: tuple[Point | None, ...]
    best: tuple[bool, ...]
    """Whether each score is the highest of its column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """Scores with one row per share and setting."""

    axes: tuple[str, ...]
    """Titles of the axes that vary besides share and seed."""
    columns: tuple[ScoreColumn, ...]
    rows: tuple[ScoreRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRow:
    """Costs and failures of one stage run."""

    kind: str
    title: str
    state: State
    num_cells: int
    attempts: int
    steps: int
    wall: str
    memory: str
    when: str
    error: str
    failures: tuple[str, ...]
    """Failures and the reaction to each, oldest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryRow:
    """Sanity checks of one evaluation."""

    cell: str
    shuffled: str
    blank: str
    alone: str
    has_passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionTable:
    """Scores of the language models without images, and their change by the training."""

    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """Cell or backbone, and its formatted score per task."""


def score_table(grid: GridRecord, view: View) -> ScoreTable:
    """Return the headline scores of all cells."""
    return _tabulate(grid, view, _HEADLINES)


def fidelity_table(grid: GridRecord, view: View) -> ScoreTable:
    """Return the share of replies in the language of the question."""
    return _tabulate(grid, view, (FIDELITY_PANEL,))


def canary_rows(grid: GridRecord) -> list[CanaryRow]:
    """Return one row per finished evaluation with sanity checks."""
    rows = []
    for cell in grid.cells:
        stage = cell.evaluation
        found = stage.canaries if stage is not None else {}
        if not found:
            continue
        costs = [found.get(name) for name in ("shuffled", "blank")]
        rows.append(
            CanaryRow(
                cell=cell.cell_id,
                shuffled=_format_interval(costs[0]),
                blank=_format_interval(costs[1]),
                alone=f"{found['num_changed']} of {found['num_alone']}",
                has_passed=not found["num_changed"]
                and all(
                    cost is None or (cost["low"] is not None and cost["low"] > 0) for cost in costs
                ),
            )
        )
    return rows


def retention_table(grid: GridRecord) -> RetentionTable:
    """Return one row per backbone, then one per cell with its change from the backbone."""
    before: dict[str, StageRecord] = {}
    after: list[tuple[CellRecord, StageRecord]] = []
    for cell in grid.cells:
        if (stage := cell.stages.get("backbone")) is not None and stage.retention:
            before[stage.address] = stage
        if (stage := cell.stages.get("retention")) is not None and stage.retention:
            after.append((cell, stage))
    found = [*before.values(), *(stage for _, stage in after)]
    tasks = tuple(dict.fromkeys(task for stage in found for task in stage.retention))
    rows = [
        (f"{stage.params.get('backbone', 'backbone')}, before training",
         tuple(_format_retention(stage.retention.get(task)) for task in tasks))
        for stage in before.values()
    ]  # fmt: skip
    for cell, stage in after:
        own = cell.stages["backbone"].retention if "backbone" in cell.stages else {}
        texts = (_format_retention(stage.retention.get(task), own.get(task)) for task in tasks)
        rows.append((cell.cell_id, tuple(texts)))
    return RetentionTable(tasks=tasks, rows=tuple(rows))


def stage_rows(grid: GridRecord) -> list[StageRow]:
    """Return every stage run of the grid with its costs."""
    rows = []
    for stage in grid.stages():
        is_older = stage.state is State.DONE and (stage.ended or 0.0) < grid.created
        cells = grid.cells_of(stage.address)
        rows.append(
            StageRow(
                kind=stage.kind,
                title=stage.title.removeprefix(f"{stage.kind} ") or stage.address[:8],
                state=stage.state,
                num_cells=len(cells),
                attempts=stage.attempts,
                steps=stage.steps,
                wall=format_duration(stage.wall_s),
                memory=f"{stage.max_rss_mb:,.0f} MB" if stage.max_rss_mb else "",
                when="earlier run" if is_older else "this run" if stage.attempts else "",
                error=stage.error,
                failures=tuple(map(_format_failure, stage.failures)),
            )
        )
    return rows


def format_duration(seconds: float) -> str:
    """Format a time span in seconds, minutes or hours."""
    if seconds < 1.5 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 1.5 * _HOUR:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds / _HOUR:.1f} h"


def cells_csv(grid: GridRecord) -> str:
    """Return all metrics of all cells as CSV, one metric per line."""
    axes = list(dict.fromkeys(name for cell in grid.cells for name in cell.axes))
    fields = ("value", "ci_low", "ci_high", "n", "num_images", "majority", "blind", "chance")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["cell_id", *axes, "metric", *fields])
    for cell in grid.cells:
        place = [cell.cell_id, *(cell.axes.get(name, "") for name in axes)]
        for name, score in sorted(cell.evaluation.scores.items() if cell.evaluation else ()):
            values = [getattr(score, field) for field in fields]
            writer.writerow([*place, name, *("" if v is None else v for v in values)])
    return buffer.getvalue()


def _tabulate(grid: GridRecord, view: View, panels: Sequence[Panel]) -> ScoreTable:
    columns, scores = [], []
    for panel in panels:
        found = lines(grid, view, panel)
        for language in view.languages:
            points = {(x.setting, p.share): p for x in found if x.language == language
                      for p in x.points}  # fmt: skip
            if points:
                is_target = language == view.target
                columns.append(
                    ScoreColumn(title=panel.title, language=language, is_target=is_target)
                )
                scores.append(points)
    tops = [max(point.value for point in points.values()) for points in scores]
    varying = view.varying
    rows = []
    for setting, share in dict.fromkeys((setting_of(c), share_of(c)) for c in grid.cells):
        row = tuple(points.get((setting, share)) for points in scores)
        pairs = zip(row, tops, strict=True)
        values = dict(setting)
        rows.append(
            ScoreRow(
                share=format_percent(share),
                values=tuple(format_value(name, values.get(name)) for name in varying),
                is_marked=view.is_curve and share == REFERENCE_SHARE,
                points=row,
                best=tuple(point is not None and point.value >= top for point, top in pairs),
            )
        )
    titles = tuple(view.titles[name] for name in varying)
    return ScoreTable(axes=titles, columns=tuple(columns), rows=tuple(rows))


def _format_retention(
    found: Mapping[str, Any] | None, before: Mapping[str, Any] | None = None
) -> str:
    if found is None:
        return ""
    is_bits = found["metric"] == "bits_per_byte"
    scale, unit = (1.0, " bits/byte") if is_bits else (100.0, " %")
    digits = 3 if is_bits else 1
    text = f"{scale * found['value']:.{digits}f}{unit}"
    if found["stderr"]:
        text += f" \N{PLUS-MINUS SIGN} {_NORMAL_95 * scale * found['stderr']:.{digits}f}"
    if before is not None:
        text += f" ({scale * (found['value'] - before['value']):+.{digits}f})"
    return text


def _format_interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["low"] is None:
        return f"{found['value']:.1f} (only {found['num_images']} images)"
    return f"{found['value']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def _format_failure(failure: Mapping[str, Any]) -> str:
    step = f", checkpoint at step {failure['step']}" if failure["step"] >= 0 else ""
    node = f" on {failure['node']}" if failure["node"] else ""
    reaction = "not retried" if failure["final"] else "retried"
    return f"{failure['fault']}{node}{step}: {reaction}. {failure['error']}"
