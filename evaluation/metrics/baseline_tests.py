"""Tests of scores against their baselines: an accuracy that exceeds neither shows nothing."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from scipy.special import stdtr

from evaluation.metrics.columns import PredictionColumns
from evaluation.statistics.intervals import ALPHA

MIN_TESTED_CLUSTERS = 10
"""With fewer images nothing can be shown."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreGroup:
    """Rows of a predictions table and the score that is compared."""

    kind: str
    """Kind of benchmark, a value of `evaluation.benchmarks.items.Benchmark`."""
    language: str
    dataset: str = ""
    """Name of the benchmark; empty for the main one, that of the first row."""
    score: str = "score"
    """Column of the score: score, score_lmms or score_aware."""
    answer_types: tuple[str, ...] = ()
    """Answer types of the group; all if empty."""
    question_types: tuple[str, ...] = ()
    """Question types of the group; all if empty."""

    def select(self, columns: PredictionColumns) -> np.ndarray:
        """Return a mask of the rows of the group."""
        dataset = self.dataset or columns["dataset"][0]
        mask = (columns["dataset"] == dataset) & (columns["benchmark"] == self.kind)
        mask &= columns["language"] == self.language
        for name, wanted in (
            ("answer_type", self.answer_types),
            ("question_type", self.question_types),
        ):
            if wanted:
                mask &= np.isin(columns[name].astype(str), wanted)
        return np.asarray(mask, dtype=bool)


def exceeds_baselines(table: pa.Table, group: ScoreGroup, *, alpha: float = ALPHA) -> bool:
    """Return whether the scores of a group exceed those of its blind and majority baselines.

    Both paired one-sided tests must reject at level `alpha`, so the probability of a wrong "yes" is
    at most `alpha`. Without a blind run, and with fewer than 10 images, the answer is no.

    Args:
        table: Predictions of one evaluation.
        group: The rows and the score that are compared.
        alpha: Level of each test.
    """
    columns = PredictionColumns(table)
    mask = group.select(columns)
    p_values = [
        baseline_p_value(columns, mask, group.score, baseline) for baseline in ("blind", "majority")
    ]
    return all(p is not None and p <= alpha for p in p_values)


def baseline_p_value(
    columns: PredictionColumns, mask: np.ndarray, score: str, baseline: str
) -> float | None:
    """Return the p-value against "the score does not exceed its baseline"; None without a baseline.

    Args:
        columns: The predictions.
        mask: Rows that are tested.
        score: Column of the score.
        baseline: "blind" or "majority".
    """
    differences = columns[score][mask] - columns[f"{baseline}_{score}"][mask]
    if not len(differences) or np.isnan(differences).any():
        return None
    return one_sided_p_value(differences, columns["image_key"][mask].astype(str))


def one_sided_p_value(differences: np.ndarray, clusters: Sequence[str] | np.ndarray) -> float:
    """Return the p-value against "the mean of the differences is at most 0", clustered by image.

    The mean is divided by its cluster-robust standard error and compared with the t distribution
    with one degree of freedom less than there are images. With fewer than 10 images the result is
    1. If all images have the same difference, a sign test replaces the standard error of 0.

    Args:
        differences: One value per item.
        clusters: Image of every item.
    """
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    num_clusters = int(codes.max()) + 1 if len(codes) else 0
    if num_clusters < MIN_TESTED_CLUSTERS:
        return 1.0
    values = np.asarray(differences, dtype=np.float64)
    mean = float(values.mean())
    residuals = np.bincount(codes, weights=values - mean)
    error = math.sqrt(num_clusters / (num_clusters - 1) * float(residuals @ residuals))
    error /= len(values)
    if error < np.finfo(np.float64).eps:
        return 0.5**num_clusters if mean > 0 else 1.0
    return float(stdtr(num_clusters - 1, -mean / error))
