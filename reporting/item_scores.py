"""Scores per question behind the points of a panel, averaged over the seeds of a cell.

Intervals and comparisons of points need the scores per question; the metrics of single cells do not
suffice once several seeds are averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from core.io.reading import reading
from evaluation.metrics.baseline_tests import one_sided_p_value
from evaluation.statistics.decisions import ALPHA
from evaluation.statistics.intervals import Interval, mean_interval
from reporting.records import CellRecord

_COLUMNS = ("dataset", "benchmark", "answer_type", "language", "question_id", "image_key", "score",
            "score_lmms", "score_aware", "score_any_language", "likeliest_score",
            "is_in_language", "blind_score", "blind_score_lmms",
            "blind_score_aware", "majority_score", "majority_score_lmms",
            "majority_score_aware")  # fmt: skip
_BASELINES = ("blind", "majority")
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemQuery:
    """Rows of the predictions and the column that a metric averages."""

    kind: str
    """Kind of benchmark; empty for all kinds."""
    column: str
    answer_type: str = ""
    """Answer type; empty for all."""
    dataset: str = ""
    """Name of the benchmark; empty for the main one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionScores:
    """Scores in 0..1 of the questions that all seeds of a cell answered."""

    by_question: Mapping[tuple[str, ...], float]
    image_of: Mapping[tuple[str, ...], str]


def question_scores(
    cells: Sequence[CellRecord], query: ItemQuery, language: str
) -> QuestionScores | None:
    """Return the scores per question, averaged over cells that differ in their seed only.

    Args:
        cells: Finished cells.
        query: The rows and column.
        language: Language of the questions.

    Returns:
        The scores, or None if the predictions of a cell are not available.
    """
    paths = [cell.stages["evaluate"].predictions for cell in cells]
    if not paths or not all(path.is_file() for path in paths):
        return None
    parts = [_select(path, path.stat().st_mtime_ns, query, language) for path in paths]
    common = set(parts[0].by_question).intersection(*(part.by_question for part in parts))
    return QuestionScores(
        by_question={
            key: float(np.mean([part.by_question[key] for part in parts]))
            for key in parts[0].by_question
            if key in common
        },
        image_of=parts[0].image_of,
    )


def seed_averaged_interval(
    cells: Sequence[CellRecord], query: ItemQuery, language: str
) -> Interval | None:
    """Return the mean over questions and seeds with its 95 % interval, clustered by image.

    The interval covers the choice of images for these trained models, not other seeds.
    """
    found = question_scores(cells, query, language)
    if found is None or not found.by_question:
        return None
    images = [found.image_of[key] for key in found.by_question]
    values = np.array(list(found.by_question.values()))
    return mean_interval(values, images, seed=_SEED)


def exceeds_baselines(cells: Sequence[CellRecord], query: ItemQuery, language: str) -> bool | None:
    """Return whether the mean over seeds significantly exceeds its blind and majority baselines.

    Args:
        cells: Finished cells that differ in their seed only.
        query: The rows and column.
        language: Language of the questions.

    Returns:
        Whether both one-sided tests, paired by question and clustered by image, reject at the 5 %
        level; None if a baseline was not measured.
    """
    scores = question_scores(cells, query, language)
    for name in _BASELINES:
        column = f"{name}_{query.column}"
        if scores is None or column not in _COLUMNS:
            return None
        baseline = question_scores(cells, replace(query, column=column), language)
        if baseline is None or not baseline.by_question:
            return None
        (ours, theirs), images = common_scores((scores, baseline))
        if one_sided_p_value(ours - theirs, images) > ALPHA:
            return False
    return True


def common_scores(parts: Sequence[QuestionScores]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the questions that all parts have, and the image of each question.

    Returns:
        Scores of shape (parts, questions), and images of shape (questions,).
    """
    keys = sorted(set(parts[0].by_question).intersection(*(part.by_question for part in parts)))
    scores = np.array([[part.by_question[key] for key in keys] for part in parts])
    return scores, np.array([parts[0].image_of[key] for key in keys])


@lru_cache(maxsize=512)
def _select(path: Path, modified_ns: int, query: ItemQuery, language: str) -> QuestionScores:
    columns = _read_columns(path, modified_ns)
    dataset = query.dataset or columns["dataset"][0]
    scores: dict[tuple[str, ...], float] = {}
    images: dict[tuple[str, ...], str] = {}
    for at, key in enumerate(
        zip(columns["dataset"], columns["benchmark"], columns["question_id"], strict=True)
    ):
        is_wanted = (
            key[0] == dataset
            and columns["language"][at] == language
            and query.kind in ("", key[1])
            and query.answer_type in ("", columns["answer_type"][at])
        )
        if is_wanted and columns[query.column][at] is not None:
            scores[key] = float(columns[query.column][at])
            images[key] = columns["image_key"][at]
    return QuestionScores(by_question=scores, image_of=images)


@lru_cache(maxsize=64)
def _read_columns(path: Path, modified_ns: int) -> dict[str, list[Any]]:
    del modified_ns  # part of the key of the cache
    with reading(path, fix="delete the result folder to run the evaluate stage again"):
        table = pq.read_table(path, columns=list(_COLUMNS))
    return {name: table[name].to_pylist() for name in _COLUMNS}
