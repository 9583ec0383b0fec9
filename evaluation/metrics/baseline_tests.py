"""Tests of scores against their baselines: an accuracy that exceeds neither shows nothing."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from evaluation.metrics.columns import PredictionColumns
from evaluation.statistics.decisions import ALPHA
from evaluation.statistics.uncertainty import describe_mean

_SEED = 0


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

    It is that of `evaluation.statistics.uncertainty.describe_mean`, or 1 with fewer than 10 images.

    Args:
        differences: One value in -1..1 per item.
        clusters: Image of every item.
    """
    found = describe_mean(differences, clusters, seed=_SEED, names=("paired",))
    return 1.0 if found is None else found.tail_below(0.0)
