"""Test whether the parts of a pooled comparison have the same effect."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from core.errors import DataError
from evaluation.statistics.intervals import Interval, difference_interval
from evaluation.statistics.resampling import total_clusters
from evaluation.statistics.small_samples import clustered_covariance, quadratic_form_p_value
from evaluation.statistics.uncertainty import MIN_CLUSTERS


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Heterogeneity:
    """Cochran's Q of effects that were measured on the same items."""

    q: float | None
    """Weighted sum of squared deviations from the common effect; None if it can't be estimated."""
    df: int
    """Number of parts minus one."""
    p_value: float | None
    """p-value of the hypothesis that all effects are equal; None if q is."""
    effects: tuple[Interval, ...]
    """Effect of every part, with its 95 % interval."""


def heterogeneity(
    differences_PI: np.ndarray, clusters: Sequence[str] | np.ndarray, *, seed: int = 0
) -> Heterogeneity:
    """Test whether P parts have the same mean difference.

    The parts share their items, so their effects are correlated. Q is the quadratic form of the
    contrasts between parts with their cluster-robust covariance; for independent parts it equals
    Cochran's Q. It is compared with Hotelling's distribution, which accounts for the estimated
    covariance and becomes chi-squared with many clusters.

    Args:
        differences_PI: Difference of two systems per part and item.
        clusters: Image of every item.
        seed: Seed of the intervals of the effects.

    Returns:
        Q without a value if there are fewer than `MIN_CLUSTERS` images or not more images than
        parts.

    Raises:
        DataError: If there are fewer than two parts, or the shapes do not match.
    """
    differences_PI = np.asarray(differences_PI, dtype=np.float64)
    if differences_PI.ndim != 2 or len(differences_PI) < 2:  # noqa: PLR2004
        raise DataError(
            f"differences of shape {differences_PI.shape}; expected a row per part, and at least "
            "two parts"
        )
    totals = total_clusters(differences_PI, clusters)
    df = len(differences_PI) - 1
    effects = tuple(difference_interval(row, clusters, seed=seed) for row in differences_PI)
    found = Heterogeneity(q=None, df=df, p_value=None, effects=effects)
    if totals.num_clusters < MIN_CLUSTERS or totals.num_clusters <= df + 1:
        return found
    contrasts_DP = np.eye(df, df + 1) - np.eye(df, df + 1, k=1)
    covariance_DD = contrasts_DP @ clustered_covariance(totals) @ contrasts_DP.T
    contrast_D = contrasts_DP @ totals.means
    # Equal parts have contrasts without error: the pseudo-inverse leaves them out.
    q = float(contrast_D @ np.linalg.pinv(covariance_DD, hermitian=True) @ contrast_D)
    return dataclasses.replace(
        found, q=q, p_value=quadratic_form_p_value(q, df, totals.num_clusters)
    )
