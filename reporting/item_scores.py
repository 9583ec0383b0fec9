"""Scores per question behind the points of a panel, averaged over the seeds of a cell.

Intervals and comparisons of points need the scores per question; the metrics of single cells do not
suffice once several seeds are averaged.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
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
_MAX_FILES = 1024
"""Predictions that are kept in memory. With fewer than a grid has cells, sections that read them
one after the other would read each of them again."""
_MAX_RESULTS = 1 << 16
_Files: TypeAlias = tuple[tuple[Path, int], ...]
"""Path of the predictions of every seed, and when they were written."""


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
    files = _predictions(cells)
    return None if files is None else _average(files, query, language)


def seed_averaged_interval(
    cells: Sequence[CellRecord], query: ItemQuery, language: str
) -> Interval | None:
    """Return the mean over questions and seeds with its 95 % interval, clustered by image.

    The interval covers the choice of images for these trained models, not other seeds.
    """
    files = _predictions(cells)
    return None if files is None else _interval(files, query, language)


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
    files = _predictions(cells)
    return None if files is None else _exceeds_baselines(files, query, language)


def common_scores(parts: Sequence[QuestionScores]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the questions that all parts have, and the image of each question.

    Returns:
        Scores of shape (parts, questions), and images of shape (questions,).
    """
    keys = sorted(set(parts[0].by_question).intersection(*(part.by_question for part in parts)))
    scores = np.array([[part.by_question[key] for key in keys] for part in parts])
    return scores, np.array([parts[0].image_of[key] for key in keys])


def _predictions(cells: Sequence[CellRecord]) -> _Files | None:
    """Return the predictions of cells and when they were written; None if some are missing."""
    paths = [cell.stages["evaluate"].predictions for cell in cells]
    if not paths or not all(path.is_file() for path in paths):
        return None
    return tuple((path, path.stat().st_mtime_ns) for path in paths)


# Every section of a report draws the same points: their intervals and tests are computed once.


@lru_cache(maxsize=_MAX_RESULTS)
def _interval(files: _Files, query: ItemQuery, language: str) -> Interval | None:
    found = _average(files, query, language)
    if not found.by_question:
        return None
    images = [found.image_of[key] for key in found.by_question]
    values = np.array(list(found.by_question.values()))
    return mean_interval(values, images, seed=_SEED)


@lru_cache(maxsize=_MAX_RESULTS)
def _exceeds_baselines(files: _Files, query: ItemQuery, language: str) -> bool | None:
    scores = _average(files, query, language)
    for name in _BASELINES:
        column = f"{name}_{query.column}"
        if column not in _COLUMNS:
            return None
        baseline = _average(files, replace(query, column=column), language)
        if not baseline.by_question:
            return None
        (ours, theirs), images = common_scores((scores, baseline))
        if one_sided_p_value(ours - theirs, images) > ALPHA:
            return False
    return True


@lru_cache(maxsize=512)
def _average(files: _Files, query: ItemQuery, language: str) -> QuestionScores:
    parts = [_select(path, modified_ns, query, language) for path, modified_ns in files]
    common = set(parts[0].by_question).intersection(*(part.by_question for part in parts))
    keys = [key for key in parts[0].by_question if key in common]
    means = np.mean([[part.by_question[key] for key in keys] for part in parts], axis=0)
    return QuestionScores(
        by_question=dict(zip(keys, means.tolist(), strict=True)), image_of=parts[0].image_of
    )


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


@lru_cache(maxsize=_MAX_FILES)
def _read_columns(path: Path, modified_ns: int) -> dict[str, list[Any]]:
    del modified_ns  # part of the key of the cache
    with reading(path, fix="delete the result folder to run the evaluate stage again"):
        table = pq.read_table(path, columns=list(_COLUMNS))
    return {name: _shared_values(table[name]) for name in _COLUMNS}


def _shared_values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column; equal texts of all files are one object."""
    values: list[Any] = column.to_pylist()
    if not pa.types.is_string(column.type):
        return values
    return [value if value is None else sys.intern(value) for value in values]
