"""Agreement of raters with intervals: shares, Cohen's kappa, Krippendorff's alpha, correlations.

Intervals are jackknife intervals: each image, and each rater if there are several, is left out in
turn. The variances combine as in `linearised`: between images plus between raters minus that of
their intersection. The quantile is that of Student's t distribution. Two raters whose agreement
with each other is measured have no variance between raters, so the interval then concerns these
two.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from core.errors import DataError
from evaluation.statistics.intervals import CONFIDENCE, Interval
from evaluation.statistics.small_samples import student_quantile
from evaluation.statistics.uncertainty import MIN_CLUSTERS, ConstantMean


def cohen_kappa(
    first: Sequence[object] | np.ndarray,
    second: Sequence[object] | np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    weights: np.ndarray | None = None,
    raters: Sequence[str] | np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Return Cohen's kappa of two raters with a clustered interval.

    Kappa is 1 - observed / expected disagreement (Cohen 1960). It is None if both raters use one
    and the same category only, for which kappa is undefined.

    Args:
        first: Category of every pair of ratings by the first rater.
        second: Category by the second rater.
        clusters: Image of every pair.
        weights: Weight of every pair, for example one over the number of pairs of its item;
            defaults to equal weights.
        raters: Person behind every pair if there are several.
        confidence: Confidence level of the interval.

    Raises:
        DataError: If there are no pairs, or their numbers differ.
    """
    labels, codes = np.unique([*map(str, first), *map(str, second)], return_inverse=True)
    first_J, second_J = codes[: len(first)], codes[len(first) :]
    weights_J = _check(first_J, second_J, clusters, weights)

    def kappa(kept_J: np.ndarray) -> float:
        one, other, w = first_J[kept_J], second_J[kept_J], weights_J[kept_J] / weights_J.sum()
        first_K, second_K = (np.bincount(c, w, len(labels)) for c in (one, other))
        total = w.sum()
        expected = total**2 - float(first_K @ second_K)
        observed = float(w[one != other].sum()) * total
        return 1.0 - observed / expected if expected > 0 else math.nan

    return _jackknife(kappa, clusters, raters, confidence)


def raw_agreement(
    first: Sequence[object] | np.ndarray,
    second: Sequence[object] | np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    weights: np.ndarray | None = None,
    raters: Sequence[str] | np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Return the share of equal ratings with a clustered interval; arguments as `cohen_kappa`."""
    is_equal_J = np.array([str(a) == str(b) for a, b in zip(first, second, strict=True)])
    weights_J = _check(is_equal_J, is_equal_J, clusters, weights)

    def agreement(kept_J: np.ndarray) -> float:
        return float((is_equal_J * weights_J)[kept_J].sum() / weights_J[kept_J].sum())

    return _jackknife(agreement, clusters, raters, confidence)


def krippendorff_alpha(
    units: Sequence[str] | np.ndarray,
    values: Sequence[str] | np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    raters: Sequence[str] | np.ndarray,
    *,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Return Krippendorff's nominal alpha with a clustered interval.

    Alpha is 1 - observed / expected disagreement (Krippendorff, Content Analysis, 2004, section
    11.3). It is None if no unit has two ratings, or if only one value occurs, for which alpha is
    undefined.

    Args:
        units: Unit of every rating.
        values: Value of every rating.
        clusters: Image of the unit of every rating.
        raters: Rater of every rating.
        confidence: Confidence level of the interval.

    Raises:
        DataError: If there are no ratings, or the numbers differ.
    """
    _, units_J = np.unique(np.asarray(units), return_inverse=True)
    names, values_J = np.unique(np.asarray(values), return_inverse=True)
    _check(units_J, values_J, clusters, None)
    is_paired_J = np.bincount(units_J)[units_J] > 1
    if not is_paired_J.any():
        return None
    table_J = units_J * len(names) + values_J
    size = (int(units_J.max()) + 1) * len(names)

    def alpha(kept_J: np.ndarray) -> float:
        counts_UV = np.bincount(table_J[kept_J], minlength=size).reshape(-1, len(names))
        counts_UV = counts_UV[counts_UV.sum(axis=1) > 1]
        sizes_U = counts_UV.sum(axis=1)
        total, totals_V = int(sizes_U.sum()), counts_UV.sum(axis=0)
        expected = total**2 - float((totals_V**2).sum())
        if expected <= 0:
            return math.nan
        differing_U = sizes_U**2 - (counts_UV**2).sum(axis=1)
        return 1.0 - (total - 1) * float((differing_U / (sizes_U - 1)).sum()) / expected

    clusters_P, raters_P = np.asarray(clusters)[is_paired_J], np.asarray(raters)[is_paired_J]
    places_P = np.flatnonzero(is_paired_J)
    return _jackknife(lambda kept_P: alpha(places_P[kept_P]), clusters_P, raters_P, confidence)


def correlation(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    by_rank: bool = False,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Return Pearson's or Spearman's correlation with a clustered interval.

    It is None if one of the two does not vary.

    Raises:
        DataError: If there are no pairs, or their numbers differ.
    """
    first_J, second_J = np.asarray(first, np.float64), np.asarray(second, np.float64)
    _check(first_J, second_J, clusters, None)

    def coefficient(kept_J: np.ndarray) -> float:
        one, other = first_J[kept_J], second_J[kept_J]
        if by_rank:
            one, other = stats.rankdata(one), stats.rankdata(other)
        if np.ptp(one) == 0 or np.ptp(other) == 0:
            return math.nan
        return float(np.corrcoef(one, other)[0, 1])

    return _jackknife(coefficient, clusters, None, confidence)


def _check(
    first_J: np.ndarray,
    second_J: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    weights: np.ndarray | None,
) -> np.ndarray:
    """Return the weights after checking that all numbers of ratings are equal."""
    weights_J = np.ones(len(first_J)) if weights is None else np.asarray(weights, np.float64)
    sizes = [len(first_J), len(second_J), len(clusters), len(weights_J)]
    if len(set(sizes)) != 1 or not sizes[0]:
        raise DataError(
            f"{sizes} first ratings, second ratings, clusters and weights; expected the same "
            "number, at least 1"
        )
    return weights_J


def _jackknife(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[str] | np.ndarray,
    raters: Sequence[str] | np.ndarray | None,
    confidence: float,
) -> Interval | None:
    """Return a statistic of kept ratings, given as a mask, with an interval in -1..1."""
    names, clusters_J = np.unique(np.asarray(clusters), return_inverse=True)
    everything = np.ones(len(clusters_J), dtype=bool)
    value = statistic(everything)
    if not math.isfinite(value):
        return None
    num_clusters = len(names)
    low = high = None
    if num_clusters >= MIN_CLUSTERS:
        images = _variance(statistic, value, clusters_J)
        if not math.isfinite(images):
            return None
        variance, df = images, num_clusters - 1.0
        people = None if raters is None else np.unique(np.asarray(raters), return_inverse=True)[1]
        if people is not None and people.max() > 0:
            own = _variance(statistic, value, people)
            pairs = np.unique(clusters_J * (people.max() + 1) + people, return_inverse=True)[1]
            if math.isfinite(own):
                variance += max(0.0, own - _variance(statistic, value, pairs))
                spread = images**2 / df + own**2 / people.max()
                df = min(df, variance**2 / spread) if spread > 0 else df
        half = student_quantile(confidence, max(1.0, df)) * math.sqrt(variance)
        low, high = value - half, value + half
        if variance == 0:
            low, high = ConstantMean(value=value, num_clusters=num_clusters).bounds(confidence)
    return Interval(
        value=value,
        low=None if low is None else max(-1.0, low),
        high=None if high is None else min(1.0, high),
        num_items=len(clusters_J),
        num_clusters=num_clusters,
    )


def _variance(
    statistic: Callable[[np.ndarray], float], value: float, groups_J: np.ndarray
) -> float:
    """Return the delete-one-group jackknife variance around the value of all groups.

    It is nan if the statistic is undefined without one of the groups, as alpha without one of two
    raters.
    """
    num_groups = int(groups_J.max()) + 1
    values = np.array([statistic(groups_J != group) for group in range(num_groups)])
    return float((num_groups - 1) / num_groups * ((values - value) ** 2).sum())
