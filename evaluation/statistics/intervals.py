"""Confidence intervals for questions that are clustered by image.

All functions treat images, not questions, as independent. Below `MIN_CLUSTERS` images an interval
is refused, that is, its ends are None.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from core.errors import DataError
from core.rng import Name
from evaluation.statistics.resampling import ClusterTotals, bootstrap_rows, total_clusters
from evaluation.statistics.small_samples import (
    TIE,
    ClusterPrior,
    design_effect,
    normal_quantile,
    student_quantile,
    wilson_bounds,
)
from evaluation.statistics.uncertainty import FEW_CLUSTERS, MIN_CLUSTERS, describe_mean

CONFIDENCE = 0.95
_FEW_EXCEPTIONS = 50
"""Effective number of right or of wrong answers below which resampling is too optimistic."""
_PRIOR = ClusterPrior(num_clusters=6, correlation=0.25, is_skewed=True)
"""Prior of scores. Correlations of the scores on one image are 0 to 0.3 in 24 measured cells."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float | None
    """Lower bound; None if there are too few clusters for an interval."""
    high: float | None
    """Upper bound; None if there are too few clusters for an interval."""
    num_items: int
    num_clusters: int


def wilson_interval(
    num_right: float, num_items: int, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return Wilson's score interval of a share.

    It is valid at shares of 0 and 1, where resampling has no spread. Up to rounding, it agrees
    with `scipy.stats.binomtest(...).proportion_ci(method="wilson")`, which is about 300 times
    slower, because it also computes a p-value, and accepts no fractional counts.

    Args:
        num_right: Number of successes; may be fractional.
        num_items: Number of trials.
        confidence: Confidence level of the interval.

    Raises:
        DataError: If there are no items.
    """
    if num_items < 1:
        raise DataError(f"an interval needs at least one item, got {num_items}")
    return wilson_bounds(num_right / num_items, num_items, normal_quantile(confidence))


def mean_interval(
    values: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    seed: int,
    names: Sequence[Name] = (),
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of scores in 0..1 with an interval clustered by image.

    * If all scores are equal: Wilson's interval with the number of images as number of trials.
    * If there are fewer than `FEW_CLUSTERS` images, or few right or wrong answers: Wilson's
      interval with the effective number of trials, that is, the number of scores divided by the
      design effect (CR2, stabilised), and with the quantile of Student's t distribution.
    * Otherwise the percentile interval over resampled images.

    Args:
        values: One score per item.
        clusters: Image of every item.
        seed: Seed of the resampling.
        names: Names that select an independent random stream of the seed.
        confidence: Confidence level of the interval.

    Raises:
        DataError: If there are no scores, their number differs from that of the clusters, or a
            score lies outside 0..1.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise DataError(
            f"scores between {values.min()} and {values.max()}; expected 0..1 (differences of "
            "scores have `paired_difference`)"
        )
    totals = total_clusters(values, clusters)
    value = float(totals.means[0])
    bounds: tuple[float | None, float | None] = (None, None)
    if totals.num_clusters >= MIN_CLUSTERS:
        bounds = _share_bounds(totals, float(values.var()), confidence) or _resampled_bounds(
            totals, seed, names, confidence
        )
    return _build(value, bounds, values.size, totals.num_clusters)


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    seed: int,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of first - second over the same items, with a clustered interval.

    Images are resampled; fewer than `FEW_CLUSTERS` images have a cluster-robust t interval. If the
    difference is the same for all images, the interval is the largest share of exceptions that
    their number does not exclude (`ConstantMean`).

    Raises:
        DataError: If the numbers of scores or clusters differ, or there are none.
    """
    differences = subtract_scores(first, second)
    return difference_interval(differences, clusters, seed=seed, confidence=confidence)


def difference_interval(
    differences: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    seed: int,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of differences in -1..1 with an interval as in `paired_difference`."""
    found = describe_mean(differences, clusters, seed=seed)
    bounds = (None, None) if found is None else found.bounds(confidence)
    num_clusters = len(np.unique(np.asarray(clusters)))
    return _build(float(np.mean(differences)), bounds, len(differences), num_clusters)


def subtract_scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return first - second per item.

    Raises:
        DataError: If the numbers of scores differ.
    """
    if np.shape(first) != np.shape(second):
        raise DataError(
            f"a paired comparison got {np.shape(first)} and {np.shape(second)} scores; expected "
            "scores of the same items in the same order"
        )
    return np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)


def _share_bounds(
    totals: ClusterTotals, item_variance: float, confidence: float
) -> tuple[float, float] | None:
    """Return an analytic interval if the data are few or extreme, otherwise None."""
    value = float(totals.means[0])
    if item_variance <= TIE:
        return wilson_bounds(value, totals.num_clusters, normal_quantile(confidence))
    effect = design_effect(totals, item_variance, _PRIOR)
    num_effective = value * (1 - value) / item_variance * totals.sizes_C.sum() / effect.value
    num_exceptions = num_effective * min(value, 1 - value)
    if totals.num_clusters >= FEW_CLUSTERS and num_exceptions >= _FEW_EXCEPTIONS:
        return None
    return wilson_bounds(value, num_effective, student_quantile(confidence, effect.df))


def _resampled_bounds(
    totals: ClusterTotals, seed: int, names: Sequence[Name], confidence: float
) -> tuple[float, float]:
    means_R = bootstrap_rows(totals, seed=seed, names=names)[:, 0]
    low, high = np.quantile(means_R, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def _build(
    value: float, bounds: tuple[float | None, float | None], num_items: int, num_clusters: int
) -> Interval:
    return Interval(
        value=value, low=bounds[0], high=bounds[1], num_items=num_items, num_clusters=num_clusters
    )
