"""Analytic intervals for few clusters: Wilson's interval and the cluster-robust t.

Resampling underestimates the spread if there are few clusters or nearly all scores are equal.
"""

import math
from statistics import NormalDist

import numpy as np
from scipy import special

from evaluation.statistics.resampling import ClusterTotals

TIE = 1e-9
"""Distance below which two means are equal; scores differ by much more, rounding by much less."""
_PRIOR_CLUSTERS, _PRIOR_CORRELATION = 2, 0.5


def normal_quantile(confidence: float) -> float:
    """Return the quantile of the standard normal distribution of a two-sided interval."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def student_quantile(confidence: float, df: float) -> float:
    """Return the quantile of Student's t distribution of a two-sided interval."""
    return float(special.stdtrit(df, 0.5 + confidence / 2))


def wilson_bounds(share: float, num_trials: float, quantile: float) -> tuple[float, float]:
    """Return the bounds of Wilson's score interval of a share.

    Args:
        share: Observed share in 0..1.
        num_trials: Number of independent trials; may be an effective number and fractional.
        quantile: Quantile of the reference distribution, 1.96 for 95 % of a normal distribution.
    """
    squared = quantile * quantile
    centre = (share + squared / (2 * num_trials)) / (1 + squared / num_trials)
    variance = share * (1 - share) / num_trials + squared / (4 * num_trials**2)
    half = quantile * math.sqrt(variance) / (1 + squared / num_trials)
    # Rounding must not move a bound away from the end of the scale.
    low = 0.0 if share == 0 else max(0.0, centre - half)
    high = 1.0 if share == 1 else min(1.0, centre + half)
    return low, high


def clustered_covariance(totals: ClusterTotals) -> np.ndarray:
    """Return the covariance of the means of all rows, shape (M, M), for clusters of any size.

    This is the bias-reduced linearization estimator CR2 of an intercept (Bell and McCaffrey 2002):
    the residual of a cluster that has a share h of the items is divided by sqrt(1 - h). A single
    cluster has no covariance, and the result is nan.
    """
    if totals.num_clusters < 2:  # noqa: PLR2004 - no variance between clusters
        return np.full((len(totals.sums_MC),) * 2, np.nan)
    sizes_C = totals.sizes_C
    share_C = sizes_C / sizes_C.sum()
    residuals_MC = totals.sums_MC - totals.means[:, None] * sizes_C
    scaled_MC = residuals_MC / np.sqrt(1 - share_C) / sizes_C.sum()
    covariance_MM: np.ndarray = scaled_MC @ scaled_MC.T
    return covariance_MM


def design_effect(totals: ClusterTotals, item_variance: float) -> float:
    """Return the variance of a mean relative to that of independent items, stabilized.

    If few clusters deviate from the rest, the estimate from the data is too small more often than
    not, because rare clusters with many deviations are absent. It is therefore averaged with
    `_PRIOR_CLUSTERS` further deviating clusters whose items have the correlation
    `_PRIOR_CORRELATION`. With many deviating clusters this has no effect.

    Args:
        totals: One row of sums.
        item_variance: Variance of the values of the items; positive.
    """
    sizes_C = totals.sizes_C
    num_items = sizes_C.sum()
    means_C = totals.sums_MC[0] / sizes_C
    num_deviating = np.count_nonzero(np.abs(means_C - np.median(means_C)) > TIE)
    observed = num_items * float(clustered_covariance(totals)[0, 0]) / item_variance
    prior = 1 + ((sizes_C**2).sum() / num_items - 1) * _PRIOR_CORRELATION
    total = num_deviating * observed + _PRIOR_CLUSTERS * prior
    return float(total / (num_deviating + _PRIOR_CLUSTERS))


def degrees_of_freedom(sizes_C: np.ndarray) -> float:
    """Return Satterthwaite's degrees of freedom of the CR2 variance of a mean.

    They equal C - 1 for clusters of equal size and are smaller if few clusters have most of the
    items. Items of a cluster are taken to vary together, which is the cautious choice. A single
    cluster has none.
    """
    if len(sizes_C) < 2:  # noqa: PLR2004
        return 0.0
    share_C = sizes_C / sizes_C.sum()
    variance_C = sizes_C**2
    total = variance_C.sum()
    weight_C = 1 / (1 - share_C)
    # The residuals have the covariance diag(v) - h v' - v h' + V h h'. The trace of the squared
    # matrix is expanded, so that no matrix of all pairs of clusters is needed.
    a = (weight_C * share_C**2).sum()
    b = (weight_C * variance_C**2).sum()
    p = (weight_C * share_C * variance_C).sum()
    off_C = total * share_C**2 - 2 * share_C * variance_C
    own_C = variance_C + off_C
    trace = (weight_C * own_C).sum()
    squares = total**2 * a * a + 2 * a * b - 4 * total * p * a + 2 * p * p
    squares += (weight_C**2 * (own_C**2 - off_C**2)).sum()
    return float(trace**2 / squares)


def quadratic_form_p_value(q: float, df: int, num_clusters: int) -> float:
    """Return the p-value of a quadratic form with a covariance estimated from clusters.

    Args:
        q: The quadratic form, Hotelling's T squared.
        df: Its dimension.
        num_clusters: Number of clusters, more than the dimension.
    """
    scale = (num_clusters - df) / (df * (num_clusters - 1))
    return float(special.fdtrc(df, num_clusters - df, max(0.0, q) * scale))
