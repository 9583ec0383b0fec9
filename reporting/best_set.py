"""The cells that can't be distinguished from the best one.

The highest of several scores is the highest partly by chance, so it is not marked alone. The set
follows Hsu's multiple comparisons with the best: with 95 % probability it contains every cell that
is truly the best.
"""

import numpy as np

from evaluation.statistics.resampling import bootstrap_rows, total_clusters

_CONFIDENCE = 0.95
_ROUNDING = 1e-9


def not_below_best(scores_RI: np.ndarray, clusters_I: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return for every row of scores whether it may be the best one, shape (R,).

    A row is left out if its distance from the best other row exceeds the 95 % quantile of the
    distance that images alone cause between rows of equal accuracy, with the best chosen again in
    every resample of images.

    Args:
        scores_RI: Scores of R cells on the same I questions.
        clusters_I: Image of every question.
        seed: Seed of the resampling.
    """
    totals = total_clusters(scores_RI, clusters_I)
    means_R = totals.means
    deviations_BR = bootstrap_rows(totals, seed=seed, names=("paired",)) - means_R
    return np.array(
        [
            _best_other(means_R[None], row)[0] - means_R[row]
            <= _ROUNDING
            + np.quantile(_best_other(deviations_BR, row) - deviations_BR[:, row], _CONFIDENCE)
            for row in range(len(means_R))
        ]
    )


def _best_other(values_BR: np.ndarray, row: int) -> np.ndarray:
    others = np.delete(values_BR, row, axis=1)
    return others.max(axis=1) if others.shape[1] else values_BR[:, row]
