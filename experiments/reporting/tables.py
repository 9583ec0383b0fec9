"""The tables of a report: cells with their scores, fidelity, stages, and everything as CSV."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import DataError
from datamodules.manifest import SUFFIX, load_manifest
from datamodules.remote import StorageError
from evaluation.contamination import check_pictures
from experiments.reporting.numbers import (
    ENOUGH_SHARE,
    FIDELITY,
    MAIN,
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
from experiments.reporting.records import CellRecord, GridRecord, StageRecord
from experiments.states import State

_MINUTE, _HOUR = 60, 3600
_MOST_COMPARED = 50_000
"""Samples up to which a report compares pictures itself."""
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
    """What the language models score without pictures, and what training changed."""

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
            )
        )
    return rows


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


def cautions(grid: GridRecord, view: View) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = []
    missing = [cell for cell in grid.cells if cell.evaluation is None]
    if missing:
        notes.append(
            f"The grid is not finished: {len(missing)} of {len(grid.cells)} cells have no result. "
            "'Best' means the best of what is there."
        )
    points = [p for line in lines(grid, view, MAIN) for p in line.points]
    if points:
        half = max((p.high or p.value) - (p.low or p.value) for p in points) / 2
        notes.append(
            f"Each accuracy rests on {points[0].n} questions about {points[0].num_images} "
            f"pictures; its 95 % interval reaches up to {half:.1f} points to either side. The "
            "interval covers the choice of pictures, not the luck of training."
        )
    if len(view.seeds) == 1:
        notes.append(
            "One training seed per cell: how much a result moves from one training to the next was "
            "not measured. Run with --seeds 3 before building on a difference."
        )
    else:
        notes.append(
            f"Mean over {len(view.seeds)} seeds; intervals and decisions cover the choice of "
            "pictures, the small dots show the single seeds."
        )
    notes.append(
        "Comparisons are paired by question, clustered by picture and corrected for their number "
        "(Holm). The best constant reply is chosen with knowledge of the answers."
    )
    if grid.profile == "embedded":
        notes.append(
            "The embedded profile trains very small models on drawn pictures: it shows the method "
            "at work, and its numbers say nothing about 8-billion-parameter models."
        )
    notes += _left_out(grid)
    notes += _contamination(grid)
    if grid.git_dirty:
        notes.append("The working tree had uncommitted changes: the commit alone won't repeat it.")
    return notes


def _contamination(grid: GridRecord) -> list[str]:
    """Whether the benchmark's pictures were trained on; silent where data lie elsewhere."""
    benchmark = Path(f"{grid.benchmark}{SUFFIX}")
    training = {
        Path(path)
        for stage in grid.stages()
        if stage.kind in ("align", "instruct")
        for path in stage.data
        if path.endswith(SUFFIX)
    }
    paths = [benchmark, *sorted(training)]
    try:
        total = sum(load_manifest(path).num_samples for path in paths)
        if not training or total > _MOST_COMPARED:
            return []
        found = check_pictures(benchmark, sorted(training))
    except (DataError, StorageError, OSError):
        return ["Whether pictures of the benchmark were trained on was not checked: no data here."]
    if found.shared:
        return [
            f"{len(found.shared)} of {found.num_benchmark} pictures of the benchmark are also in "
            f"the training data, e.g. {found.shared[0]}: the scores are too high."
        ]
    return [
        f"None of the {found.num_benchmark} pictures of the benchmark is among the "
        f"{found.num_training:,} of the training (compared by bytes; "
        "evaluation.contamination --pixels also finds copies in other formats)."
    ]


def _left_out(grid: GridRecord) -> list[str]:
    """Samples that no training could use, by source and fault."""
    counts: dict[str, Counter[str]] = {}
    for stage in grid.stages():
        for source, faults in stage.left_out.items():
            for fault, entry in faults.items():
                counts.setdefault(source, Counter())[fault] += entry["count"]
    return [
        f"Samples of {source} were left out of trainings, each counted whenever it was due: "
        f"{', '.join(f'{count} x {fault}' for fault, count in faults.most_common())}."
        for source, faults in sorted(counts.items())
    ]


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
