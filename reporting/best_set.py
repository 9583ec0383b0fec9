"""The cells that can't be distinguished from the best one.

The highest of several scores is the highest partly by chance, so it is not marked alone. The set
follows Hsu's multiple comparisons with the best: with 95 % probability it contains every cell that
is truly the best.
"""

import numpy as np

from core.rng import named_rng

_NUM_RESAMPLES = 2_000
_CONFIDENCE = 0.95


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
    _, codes_I = np.unique(clusters_I, return_inverse=True)
    sums_RC = np.stack([np.bincount(codes_I, weights=row) for row in scores_RI])
    sizes_C = np.bincount(codes_I).astype(np.float64)
    num_clusters = len(sizes_C)
    rng = named_rng(seed, "best set")
    drawn = rng.integers(0, num_clusters, size=(_NUM_RESAMPLES, num_clusters))
    drawn += np.arange(_NUM_RESAMPLES)[:, None] * num_clusters
    counts = np.bincount(drawn.ravel(), minlength=_NUM_RESAMPLES * num_clusters)
    counts_BC = counts.reshape(_NUM_RESAMPLES, num_clusters).astype(np.float64)
    means_R = scores_RI.mean(axis=1)
    deviations_BR = (counts_BC @ sums_RC.T) / (counts_BC @ sizes_C)[:, None] - means_R
    return np.array(
        [
            _best_other(means_R[None], row)[0] - means_R[row]
            <= np.quantile(_best_other(deviations_BR, row) - deviations_BR[:, row], _CONFIDENCE)
            for row in range(len(means_R))
        ]
    )


def _best_other(values_BR: np.ndarray, row: int) -> np.ndarray:
    others = np.delete(values_BR, row, axis=1)
    return others.max(axis=1) if others.shape[1] else values_BR[:, row]
