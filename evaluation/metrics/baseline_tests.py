"""Tests of scores against their baselines: one that exceeds neither is no evidence."""

from collections.abc import Sequence

import numpy as np

from evaluation.metrics.columns import PredictionColumns
from evaluation.statistics.uncertainty import describe_mean

_SEED = 0


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
