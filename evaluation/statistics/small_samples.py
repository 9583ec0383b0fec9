"""Analytic intervals for few clusters: Wilson's interval and the cluster-robust t.

Resampling underestimates the spread if there are few clusters or nearly all scores are equal.
"""

import dataclasses
import math
from statistics import NormalDist

import numpy as np
from scipy import special

from evaluation.statistics.resampling import ClusterTotals

TIE = 1e-9
"""Distance below which two means are equal; scores differ by much more, rounding by much less."""


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

    This is the bias-reduced linearisation estimator CR2 of an intercept (Bell and McCaffrey 2002):
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClusterPrior:
    """Assumption about clusters before the data show them."""

    num_clusters: int
    """Number of deviating clusters that the assumption counts for."""
    correlation: float
    """Correlation of the items of a cluster."""
    is_skewed: bool = False
    """Whether few deviating clusters also mean few degrees of freedom, as for rare errors, whose
    variance is known from the clusters that have one."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DesignEffect:
    """Variance of a mean relative to that of independent items."""

    value: float
    df: float
    """Degrees of freedom of this estimate."""


def design_effect(totals: ClusterTotals, item_variance: float, prior: ClusterPrior) -> DesignEffect:
    """Estimate the design effect of a mean, stabilised by a prior.

    If few clusters deviate from the rest, the estimate from the data is too small more often than
    not, because rare clusters with many deviations are absent. It is therefore averaged with that
    of the prior, weighted by the number of deviating clusters. The average varies less than the
    estimate from the data, so its degrees of freedom are more: those of the data divided by the
    square of their weight (Satterthwaite). With many deviating clusters this has no effect.

    Args:
        totals: One row of sums, of at least two clusters.
        item_variance: Variance of the values of the items; positive.
        prior: The prior.
    """
    sizes_C = totals.sizes_C
    num_items = sizes_C.sum()
    means_C = totals.sums_MC[0] / sizes_C
    num_deviating = np.count_nonzero(np.abs(means_C - np.median(means_C)) > TIE)
    weight = num_deviating / (num_deviating + prior.num_clusters)
    observed = num_items * float(clustered_covariance(totals)[0, 0]) / item_variance
    assumed = 1 + ((sizes_C**2).sum() / num_items - 1) * prior.correlation
    df = degrees_of_freedom(sizes_C, correlation=prior.correlation)
    if prior.is_skewed:
        df = min(df, max(1.0, float(num_deviating)))
    least_weight = 1 / (1 + prior.num_clusters)
    return DesignEffect(
        value=float(weight * observed + (1 - weight) * assumed),
        df=df / max(weight, least_weight) ** 2,
    )


def degrees_of_freedom(sizes_C: np.ndarray, *, correlation: float = 1.0) -> float:
    """Return Satterthwaite's degrees of freedom of the CR2 variance of a mean.

    They equal C - 1 for clusters of equal size and are smaller if few clusters have most of the
    items. A single cluster has none.

    Args:
        sizes_C: Number of items of every cluster.
        correlation: Correlation of the items of a cluster; 1 is the cautious choice.
    """
    if len(sizes_C) < 2:  # noqa: PLR2004
        return 0.0
    share_C = sizes_C / sizes_C.sum()
    variance_C = sizes_C * (1 + (sizes_C - 1) * correlation)
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
