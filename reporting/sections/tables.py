"""Tables of a report: scores, fidelity and stage runs, and the CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.store.states import State
from reporting.amounts import describe_amount
from reporting.best_set import not_below_best
from reporting.item_scores import common_scores, question_scores
from reporting.records import CellRecord, GridRecord
from reporting.series import (
    COLLAPSE_PANELS,
    FIDELITY_PANEL,
    LIKELIHOOD_PANELS,
    PANELS,
    REFERENCE_SHARE,
    TRUNCATED_PANEL,
    VQA_PANELS,
    Panel,
    Point,
    View,
    lines,
    wording_panels,
)
from reporting.settings import (
    NBSP,
    Setting,
    format_percent,
    format_value,
    setting_of,
    share_of,
)

_MINUTE, _HOUR = 60, 3600
_HEADLINES = tuple(panel for panel in PANELS if panel.key in ("vqa", "mc", "capqa"))
_ALL = 100.0

_Place = tuple[Setting, float]
"""Setting and share of a row."""


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
    amount: str
    """Target-language images and tokens of the training; empty if they are not known."""
    values: tuple[str, ...]
    """Value of each varying axis."""
    is_marked: bool
    """Whether the share is the reference share of the study."""
    points: tuple[Point | None, ...]
    may_be_best: tuple[bool, ...]
    """Whether each score can't be distinguished from the best of its column."""


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


def score_table(grid: GridRecord, view: View) -> ScoreTable:
    """Return the headline scores of all cells and the share of truncated replies."""
    return tabulate(grid, view, (*_HEADLINES, TRUNCATED_PANEL))


def likelihood_table(grid: GridRecord, view: View) -> ScoreTable:
    """Return the scores of closed questions by token probabilities; no columns if not measured."""
    return tabulate(grid, view, LIKELIHOOD_PANELS)


def wording_table(grid: GridRecord, view: View) -> ScoreTable:
    """Return how scores depend on the wording; no columns if one wording was asked."""
    return tabulate(grid, view, wording_panels(grid))


def vqa_score_table(grid: GridRecord, view: View) -> ScoreTable:
    """Return the official VQA score, that of lmms-eval and the language-aware one side by side."""
    return tabulate(grid, view, VQA_PANELS)


def unanimity_sentences(grid: GridRecord, view: View) -> list[str]:
    """State how many questions the official VQA score compares without normalisation."""
    sentences = []
    for language in view.languages:
        scores = (cell.evaluation.scores.get(f"vqa/{language}/unanimous")
                  for cell in grid.cells if cell.evaluation)  # fmt: skip
        found = next((score for score in scores if score is not None), None)
        if found is not None and found.n:
            count = round(found.value * found.n / 100)
            sentences.append(
                f"In {language}, {count} of {found.n} questions ({found.value:.0f}{NBSP}%) have "
                "equal answers of all annotators."
            )
    return sentences


def below_chance_sentences(grid: GridRecord, view: View) -> list[str]:
    """Explain closed-question scores that are significantly below chance."""
    sentences = []
    for panel in PANELS:
        for language in view.languages:
            found = [line for line in lines(grid, view, panel) if line.language == language]
            low = [
                point
                for line in found
                for point in line.points
                if point.chance is not None and point.high is not None
                and point.high < point.chance and point.unparsed is not None
            ]  # fmt: skip
            if low:
                total = sum(len(line.points) for line in found)
                sentences.append(_explain_below_chance(panel.title, language, low, total))
    return sentences


def _explain_below_chance(title: str, language: str, low: Sequence[Point], total: int) -> str:
    unparsed = [point.unparsed or 0.0 for point in low]
    readable = [
        _ALL * point.value / (_ALL - share)
        for point, share in zip(low, unparsed, strict=True)
        if share < _ALL
    ]
    text = (
        f"{title} in {language}: {len(low)} of {total} scores are below chance "
        f"({low[0].chance:.0f}{NBSP}%); {_format_range(unparsed)} of the replies can't be parsed "
        "and count as wrong."
    )
    if readable:
        text += f" Of the parsed replies, {_format_range(readable)} are right."
    return text


def _format_range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    dash = "\N{EN DASH}"
    return f"{low}{NBSP}%" if low == high else f"{low}{dash}{high}{NBSP}%"


def fidelity_table(grid: GridRecord, view: View) -> ScoreTable:
    """Return the share of replies in the language of the question."""
    return tabulate(grid, view, (FIDELITY_PANEL,))


def collapse_table(grid: GridRecord, view: View) -> ScoreTable:
    """Return the scores that tell a lost reply language from lost knowledge."""
    return tabulate(grid, view, COLLAPSE_PANELS)


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
    fields = ("value", "ci_low", "ci_high", "n", "num_images", "majority", "blind", "chance",
              "beats_blind", "beats_majority")  # fmt: skip
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["cell_id", *axes, "metric", *fields])
    for cell in grid.cells:
        place = [cell.cell_id, *(cell.axes.get(name, "") for name in axes)]
        for name, score in sorted(cell.evaluation.scores.items() if cell.evaluation else ()):
            values = [getattr(score, field) for field in fields]
            writer.writerow([*place, name, *("" if v is None else v for v in values)])
    return buffer.getvalue()


def tabulate(grid: GridRecord, view: View, panels: Sequence[Panel]) -> ScoreTable:
    """Return the scores of some panels, one row per share and setting."""
    columns, scores, best_sets = [], [], []
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
                best_sets.append(_best_set(points, panel, language))
    varying = view.varying
    rows = []
    cells: dict[_Place, list[CellRecord]] = {}
    for cell in grid.cells:
        cells.setdefault((setting_of(cell), share_of(cell)), []).append(cell)
    for (setting, share), same in cells.items():
        values = dict(setting)
        rows.append(
            ScoreRow(
                share=format_percent(share),
                amount=describe_amount(same),
                values=tuple(format_value(name, values.get(name)) for name in varying),
                is_marked=view.is_curve and share == REFERENCE_SHARE,
                points=tuple(points.get((setting, share)) for points in scores),
                may_be_best=tuple((setting, share) in best for best in best_sets),
            )
        )
    titles = tuple(view.titles[name] for name in varying)
    return ScoreTable(axes=titles, columns=tuple(columns), rows=tuple(rows))


def _best_set(points: Mapping[_Place, Point], panel: Panel, language: str) -> set[_Place]:
    """Return the places whose scores can't be distinguished from the best; empty if unknown."""
    query = panel.query
    parts = {} if query is None else {
        place: found for place, point in points.items()
        if (found := question_scores(point.cells, query, language)) is not None
    }  # fmt: skip
    if len(parts) < len(points) or len(parts) == 1:
        return set()
    scores, images = common_scores(list(parts.values()))
    if not len(images):
        return set()
    return {place for place, is_best in zip(parts, not_below_best(scores, images), strict=True)
            if is_best}  # fmt: skip


def _format_failure(failure: Mapping[str, Any]) -> str:
    step = f", checkpoint at step {failure['step']}" if failure["step"] >= 0 else ""
    node = f" on {failure['node']}" if failure["node"] else ""
    reaction = "not retried" if failure["final"] else "retried"
    return f"{failure['fault']}{node}{step}: {reaction}. {failure['error']}"
