"""Differences of the sides of a comparison: configuration, amounts, and paired scores.

Scores are compared on the questions that both sides answered, seed-averaged, with the intervals of
`evaluation.statistics.intervals.paired_difference`: they cover the choice of images for these
trained models, and not other seeds.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from core.errors import DataError
from evaluation.statistics.intervals import Interval, paired_difference
from reporting.comparison.sides import Side
from reporting.item_scores import common_scores, question_scores
from reporting.records import CellRecord, GridRecord
from reporting.sections.tables import format_duration
from reporting.series import FIDELITY_PANEL, MAIN_PANEL, PANELS, Panel, main_panel
from reporting.settings import Setting, axis_titles, format_axis

_SEED = 0
_SHOWN_STAGES = ("features", "align", "instruct", "evaluate")
_ADDRESS_LENGTH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDifference:
    """A field or a file in which the sides differ."""

    name: str
    values: tuple[str, ...]
    """Value of each side; empty where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedScore:
    """Scores of two sides on the same questions, in percent."""

    place: str
    """Axes of the compared cells; empty if single cells are compared."""
    panel: Panel
    language: str
    letters: tuple[str, str]
    first: float
    second: float
    difference: Interval
    """Second minus first, in percentage points."""
    num_seeds: tuple[int, int]

    @property
    def is_clear(self) -> bool:
        """True if the interval excludes zero."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and (low > 0 or high < 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedScores:
    """All paired scores, and what could not be paired."""

    rows: tuple[PairedScore, ...]
    unpaired: tuple[str, ...]
    """Sentences about cells without a counterpart, and about benchmarks that differ."""


def configuration_differences(sides: Sequence[Side]) -> list[FieldDifference]:
    """Return the fields of the configuration in which the sides differ."""
    facts = [
        {
            "experiment": side.grid.experiment,
            "profile": side.grid.profile,
            "commit": side.grid.git_commit[:_ADDRESS_LENGTH]
            + (" with changes" if side.grid.git_dirty else ""),
            **{f"version of {name}": version for name, version in side.grid.versions.items()},
            **side.values,
        }
        for side in sides
    ]
    names = dict.fromkeys(name for fact in facts for name in fact)
    rows = [
        FieldDifference(name=name, values=tuple(fact.get(name, "") for fact in facts))
        for name in names
    ]
    return [row for row in rows if len(set(row.values)) > 1]


def data_differences(sides: Sequence[Side]) -> list[FieldDifference]:
    """Return data and weights files whose content differs, or that one side does not read."""
    contents = []
    for side in sides:
        found: dict[str, str] = {}
        for cell in side.cells:
            for stage in cell.stages.values():
                found |= {str(path): str(sha256) for path, sha256 in stage.data.items()}
        contents.append(found)
    names = sorted({name for found in contents for name in found})
    rows = [
        FieldDifference(
            name=name,
            values=tuple(found.get(name, "not read")[:_ADDRESS_LENGTH] for found in contents),
        )
        for name in names
    ]
    return [row for row in rows if len(set(row.values)) > 1]


def amounts(sides: Sequence[Side]) -> list[FieldDifference]:
    """Return what each side took: stage runs, compute time, and target-language data."""
    columns = [_amounts_of(side) for side in sides]
    names = dict.fromkeys(name for column in columns for name in column)
    return [
        FieldDifference(name=name, values=tuple(column.get(name, "") for column in columns))
        for name in names
    ]


def _amounts_of(side: Side) -> dict[str, str]:
    stages = {stage.address: stage for cell in side.cells for stage in cell.stages.values()}
    done = sum(cell.evaluation is not None for cell in side.cells)
    found = {"finished cells": f"{done} of {len(side.cells)}"}
    for kind in _SHOWN_STAGES:
        times = [one.wall_s for one in stages.values() if one.kind == kind and one.wall_s]
        if times:
            found[f"time of {kind}"] = f"{format_duration(sum(times))} in {len(times)} stage runs"
    total = sum(stage.wall_s for stage in stages.values())
    found["total compute time"] = format_duration(total)
    known = [one.target_data for one in stages.values() if one.kind == "instruct"]
    data = [one for one in known if one is not None]
    images = [one.target_images.num_different for one in data]
    if images:
        tokens = [one.target_images.num_loss_tokens for one in data]
        language = side.grid.target_language
        found[f"different images in {language} per cell"] = _span(images)
        found[f"loss tokens in {language} per cell, with images"] = _span(tokens)
    return found


def _span(numbers: Sequence[int]) -> str:
    """Return the smallest and the largest number."""
    return " to ".join(f"{number:,}" for number in dict.fromkeys((min(numbers), max(numbers))))


def paired_scores(sides: Sequence[Side]) -> PairedScores:
    """Compare every side with the first one.

    Raises:
        DataError: If no cell of two sides can be compared.
    """
    rows: list[PairedScore] = []
    unpaired: list[str] = []
    first = sides[0]
    for second in sides[1:]:
        pairs = list(_pairs(first, second, unpaired))
        if not pairs:
            raise DataError(
                f"{first.name} and {second.name} have no finished cells with equal axes; name the "
                "cells to compare as GRID:CELL"
            )
        for place, cells in pairs:
            pair = _Pair(sides=(first, second), cells=cells, place=place)
            rows += _compare_cells(pair, unpaired)
    return PairedScores(rows=tuple(rows), unpaired=tuple(dict.fromkeys(unpaired)))


def _pairs(
    first: Side, second: Side, unpaired: list[str]
) -> Iterator[tuple[str, tuple[list[CellRecord], list[CellRecord]]]]:
    """Yield the label of every pair of cells, and the seeds of both."""
    before, after = first.places(), second.places()
    if first.is_cell:
        for side, places in ((first, before), (second, after)):
            if not places:
                raise DataError(f"{side.name} has no finished evaluation; run it first")
        _check_benchmarks(first, second, unpaired)
        yield "", (next(iter(before.values())), next(iter(after.values())))
        return
    _check_benchmarks(first, second, unpaired)
    for place, cells in before.items():
        if place in after:
            yield _label(place), (cells, after[place])
    for side, own, other in ((first, before, after), (second, after, before)):
        if alone := [_label(place) for place in own if place not in other]:
            unpaired.append(
                f"{len(alone)} cells of {side.name} have no counterpart: {'; '.join(alone)}."
            )
        open_cells = [cell.cell_id for cell in side.cells if cell.evaluation is None]
        if open_cells:
            unpaired.append(f"Not finished in {side.name}: {', '.join(open_cells)}.")


def _check_benchmarks(first: Side, second: Side, unpaired: list[str]) -> None:
    """Report benchmarks whose questions may differ although their ids are equal."""
    contents = [
        {
            str(path): str(sha256)
            for cell in side.cells
            if cell.evaluation is not None
            for path, sha256 in cell.evaluation.data.items()
            if any(str(path).startswith(name) for name in side.grid.benchmarks)
        }
        for side in (first, second)
    ]
    unpaired += [
        f"The content of {path} differs between {first.name} and {second.name}: questions with "
        "equal ids may be different questions."
        for path in sorted(contents[0].keys() & contents[1].keys())
        if contents[0][path] != contents[1][path]
    ]


def _label(place: Setting) -> str:
    titles = axis_titles([name for name, _ in place])
    return ", ".join(format_axis(name, value, titles[name]) for name, value in place)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """Cells of two sides that are compared, with all their seeds."""

    sides: tuple[Side, Side]
    cells: tuple[list[CellRecord], list[CellRecord]]
    place: str


def deciding_panel(grid: GridRecord) -> Panel:
    """Return the panel of the score that decides claims, with a title that stands on its own."""
    panel = main_panel(grid)
    if panel.metric == MAIN_PANEL.metric:
        return MAIN_PANEL
    return dataclasses.replace(panel, title=f"{MAIN_PANEL.title}, {panel.title}")


def _compare_cells(pair: _Pair, unpaired: list[str]) -> Iterator[PairedScore]:
    grid = pair.sides[0].grid
    panels = dict.fromkeys((deciding_panel(grid), *PANELS, FIDELITY_PANEL))
    for panel in panels:
        for language in (grid.target_language, grid.base_language):
            row = _compare(pair, panel, language, unpaired)
            if row is not None:
                yield row


def _compare(pair: _Pair, panel: Panel, language: str, unpaired: list[str]) -> PairedScore | None:
    """Return the paired score of a panel; None if no question is common to both sides."""
    if panel.query is None:
        return None
    found = [question_scores(cells, panel.query, language) for cells in pair.cells]
    parts = [part for part in found if part is not None and part.by_question]
    what = f"{panel.title} in {language}"
    if len(parts) < len(found):
        if parts:
            unpaired.append(f"{what}: only one side has it.")
        return None
    scores, images = common_scores(parts)
    sizes = [len(part.by_question) for part in parts]
    if len(images) < max(sizes):
        first, second = (side.name for side in pair.sides)
        unpaired.append(
            f"{what}: {len(images)} questions are common to {first} ({sizes[0]}) and {second} "
            f"({sizes[1]})."
        )
    if not len(images):
        return None
    before, after = scores
    difference = paired_difference(after, before, images, seed=_SEED)
    low, high = difference.low, difference.high
    return PairedScore(
        place=pair.place,
        panel=panel,
        language=language,
        letters=(pair.sides[0].letter, pair.sides[1].letter),
        first=100 * fmean(before),
        second=100 * fmean(after),
        difference=dataclasses.replace(
            difference,
            value=100 * difference.value,
            low=None if low is None else 100 * low,
            high=None if high is None else 100 * high,
        ),
        num_seeds=(len(pair.cells[0]), len(pair.cells[1])),
    )
