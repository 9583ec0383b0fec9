"""Scores per question of a grid's cells in a common order, as paired comparisons need them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from evaluation.benchmarks.predictions import read_predictions
from reporting.records import CellRecord, GridRecord
from reporting.settings import Setting, setting_of, share_of


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairedScores:
    """Scores per question, averaged over seeds."""

    questions: tuple[str, ...]
    images: tuple[str, ...]
    scores: np.ndarray


def scores_of_cells(
    grid: GridRecord, language: str, benchmark: str
) -> dict[tuple[Setting, float], PairedScores]:
    """Return the scores per question of a benchmark in a language, by setting and share."""
    cells: dict[tuple[Setting, float], list[CellRecord]] = {}
    for cell in grid.cells:
        if cell.evaluation is not None and cell.evaluation.predictions.is_file():
            cells.setdefault((setting_of(cell), share_of(cell)), []).append(cell)
    return {
        key: mean_scores([_read_scores(cell, language, benchmark) for cell in same])
        for key, same in cells.items()
    }


def align_questions(parts: Sequence[PairedScores]) -> list[PairedScores]:
    """Restrict all parts to their common questions, in the order of the first part."""
    common = set(parts[0].questions).intersection(*(part.questions for part in parts))
    return [_select(part, [q for q in parts[0].questions if q in common]) for part in parts]


def mean_scores(parts: Sequence[PairedScores]) -> PairedScores:
    """Average the scores of each question over the parts; only common questions are kept."""
    same = align_questions(parts)
    return dataclasses.replace(same[0], scores=np.mean([part.scores for part in same], axis=0))


def pair(
    first: PairedScores, second: PairedScores
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return both scores of the common questions and their images, in the order of the first."""
    a, b = align_questions([first, second])
    return a.scores, b.scores, a.images


def _read_scores(cell: CellRecord, language: str, benchmark: str) -> PairedScores:
    table = read_predictions(cell.stages["evaluate"].predictions)
    names = ("question_id", "image_key", "score", "benchmark", "language")
    columns = [table[name].to_pylist() for name in names]
    rows = sorted(
        (question, image, score)
        for question, image, score, row_benchmark, row_language in zip(*columns, strict=True)
        if row_benchmark == benchmark and row_language == language
    )
    return PairedScores(
        questions=tuple(row[0] for row in rows),
        images=tuple(row[1] for row in rows),
        scores=np.array([row[2] for row in rows]),
    )


def _select(part: PairedScores, questions: Sequence[str]) -> PairedScores:
    position = {question: row for row, question in enumerate(part.questions)}
    rows = [position[question] for question in questions]
    images = tuple(part.images[row] for row in rows)
    return PairedScores(questions=tuple(questions), images=images, scores=part.scores[rows])
