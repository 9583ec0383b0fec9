"""Scores per question of a grid's cells, in one order: what comparisons of cells are made from."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from evaluation.benchmarks.predictions import read_predictions
from reporting.records import CellRecord, GridRecord
from reporting.series import Setting, setting_of, share_of

Scores = dict[tuple[Setting, float], "Paired"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """Scores per question, mean over seeds, in one order for all cells."""

    questions: tuple[str, ...]
    images: tuple[str, ...]
    scores: np.ndarray


def scores_of_cells(grid: GridRecord, language: str, benchmark: str) -> Scores:
    """Per setting and share, the scores of every question of a benchmark in a language."""
    cells: dict[tuple[Setting, float], list[CellRecord]] = {}
    for cell in grid.cells:
        if cell.evaluation is not None and cell.evaluation.predictions.is_file():
            cells.setdefault((setting_of(cell), share_of(cell)), []).append(cell)
    return {
        key: mean_of([_read(cell, language, benchmark) for cell in same])
        for key, same in cells.items()
    }


def _read(cell: CellRecord, language: str, wanted: str) -> Paired:
    table = read_predictions(cell.stages["evaluate"].predictions)
    names = ("question_id", "image_key", "score", "benchmark", "language")
    columns = [table[name].to_pylist() for name in names]
    rows = sorted(
        (question, image, score)
        for question, image, score, benchmark, asked in zip(*columns, strict=True)
        if benchmark == wanted and asked == language
    )
    return Paired(
        questions=tuple(row[0] for row in rows),
        images=tuple(row[1] for row in rows),
        scores=np.array([row[2] for row in rows]),
    )


def aligned(parts: Sequence[Paired]) -> list[Paired]:
    """The same on the questions that all have, in the order of the first."""
    common = set(parts[0].questions).intersection(*(part.questions for part in parts))
    return [_select(part, [q for q in parts[0].questions if q in common]) for part in parts]


def mean_of(parts: Sequence[Paired]) -> Paired:
    """Mean per question, over the questions that all parts have."""
    same = aligned(parts)
    return dataclasses.replace(same[0], scores=np.mean([part.scores for part in same], axis=0))


def pair(first: Paired, second: Paired) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Scores of both on the questions they share, in the order of the first, and the images."""
    a, b = aligned([first, second])
    return a.scores, b.scores, a.images


def _select(part: Paired, questions: Sequence[str]) -> Paired:
    position = {question: at for at, question in enumerate(part.questions)}
    rows = [position[question] for question in questions]
    images = tuple(part.images[row] for row in rows)
    return Paired(questions=tuple(questions), images=images, scores=part.scores[rows])
