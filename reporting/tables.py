"""The tables of a report: cells with their scores, fidelity, stages, and everything as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.store.records import StageRecord
from pipeline.store.states import State
from reporting.records import CellRecord, GridRecord
from reporting.series import (
    ENOUGH_SHARE,
    FIDELITY,
    PANELS,
    SEED,
    SHARE,
    Panel,
    Point,
    Setting,
    View,
    lines,
    percent,
    share_of,
)

_MINUTE, _HOUR = 60, 3600
_HEADLINES = tuple(panel for panel in PANELS if panel.key in ("vqa", "mc", "capqa"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A score column: a panel in a language."""

    title: str
    language: str
    is_target: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A setting at a share, all seeds together."""

    share: str
    setting: str
    is_marked: bool
    """Whether this is the share the study is about."""
    points: tuple[Point | None, ...]
    best: tuple[bool, ...]
    """Whether the value is the column's highest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """Rows of scores under their columns."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    has_setting: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRow:
    """One stage run."""

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
    """What went wrong on the way and what followed, oldest first."""


def score_table(grid: GridRecord, view: View) -> ScoreTable:
    """The headline scores of all cells."""
    return _table(grid, view, _HEADLINES)


def fidelity_table(grid: GridRecord, view: View) -> ScoreTable:
    """How often the reply was in the language of the question."""
    return _table(grid, view, (FIDELITY,))


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryRow:
    """What an evaluation's own checks say."""

    cell: str
    shuffled: str
    blank: str
    alone: str
    is_well: bool


def canary_rows(grid: GridRecord) -> list[CanaryRow]:
    """One line per finished evaluation that was checked."""
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
                shuffled=_cost(costs[0]),
                blank=_cost(costs[1]),
                alone=f"{found['num_changed']} of {found['num_alone']}",
                is_well=not found["num_changed"]
                and all(cost is None or cost["low"] > 0 for cost in costs),
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionTable:
    """What the language models score without images, and what training changed."""

    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """Cell (or backbone) and its texts."""


def retention_table(grid: GridRecord) -> RetentionTable:
    """One line per backbone, then one per cell with the change from its backbone."""
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
         tuple(_alone(stage.retention.get(task)) for task in tasks))
        for stage in before.values()
    ]  # fmt: skip
    for cell, stage in after:
        own = cell.stages["backbone"].retention if "backbone" in cell.stages else {}
        texts = (_alone(stage.retention.get(task), own.get(task)) for task in tasks)
        rows.append((cell.cell_id, tuple(texts)))
    return RetentionTable(tasks=tasks, rows=tuple(rows))


def _alone(found: Mapping[str, Any] | None, before: Mapping[str, Any] | None = None) -> str:
    if found is None:
        return ""
    is_bits = found["metric"] == "bits_per_byte"
    scale, unit = (1.0, " bits/byte") if is_bits else (100.0, " %")
    digits = 3 if is_bits else 1
    text = f"{scale * found['value']:.{digits}f}{unit}"
    if found["stderr"]:
        text += f" \N{PLUS-MINUS SIGN} {1.96 * scale * found['stderr']:.{digits}f}"
    if before is not None:
        text += f" ({scale * (found['value'] - before['value']):+.{digits}f})"
    return text


def _cost(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    low, high = found["low"], found["high"]
    return f"{found['value']:.1f} [{low:.1f}, {high:.1f}]"


def stage_rows(grid: GridRecord) -> list[StageRow]:
    """Every stage run of the grid, and what it cost."""
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
                wall=duration(stage.wall_s),
                memory=f"{stage.max_rss_mb:,.0f} MB" if stage.max_rss_mb else "",
                when="earlier run" if is_older else "this run" if stage.attempts else "",
                error=stage.error,
                failures=tuple(map(_failure, stage.failures)),
            )
        )
    return rows


def _failure(failure: Mapping[str, Any]) -> str:
    """One failure in a line."""
    step = f", safe until step {failure['step']}" if failure["step"] >= 0 else ""
    node = f" on {failure['node']}" if failure["node"] else ""
    what = "given up" if failure["final"] else "tried again"
    return f"{failure['fault']}{node}{step}: {what}. {failure['error']}"


def duration(seconds: float) -> str:
    """A time span as people say it."""
    if seconds < 1.5 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 1.5 * _HOUR:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds / _HOUR:.1f} h"


def cells_csv(grid: GridRecord) -> str:
    """Every metric of every cell, one line each."""
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


def _table(grid: GridRecord, view: View, panels: Sequence[Panel]) -> ScoreTable:
    columns, values = [], []
    for panel in panels:
        found = lines(grid, view, panel)
        for language in view.languages:
            points = {(x.setting, p.share): p for x in found if x.language == language
                      for p in x.points}  # fmt: skip
            if points:
                is_target = language == view.target
                title = panel.title
                columns.append(Column(title=title, language=language, is_target=is_target))
                values.append(points)
    tops = [max(point.value for point in points.values()) for points in values]
    rows = []
    for setting, share in _places(grid.cells):
        row = tuple(points.get((setting, share)) for points in values)
        pairs = zip(row, tops, strict=True)
        best = tuple(point is not None and point.value >= top for point, top in pairs)
        label = view.label(setting)
        is_marked = view.is_curve and share == ENOUGH_SHARE
        rows.append(
            Row(share=percent(share), setting=label, is_marked=is_marked, points=row, best=best)
        )
    return ScoreTable(columns=tuple(columns), rows=tuple(rows), has_setting=len(view.settings) > 1)


def _places(cells: Sequence[CellRecord]) -> list[tuple[Setting, float]]:
    keys = [
        (tuple((n, v) for n, v in cell.axes.items() if n not in (SHARE, SEED)), share_of(cell))
        for cell in cells
    ]
    return list(dict.fromkeys(keys))
