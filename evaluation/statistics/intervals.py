"""Confidence intervals and tests for questions that are clustered by image.

All functions resample images instead of questions. Decisions refer to a margin delta that is fixed
in advance. A claim is supported, refuted or undecided, and the number of images that would decide
it is estimated.
"""

import dataclasses
import math
from collections.abc import Sequence
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from core.errors import DataError
from core.rng import Name, named_rng

NUM_RESAMPLES = 2_000
CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8

_CHUNK_DRAWS = 1 << 21


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float
    num_items: int
    num_clusters: int


class Verdict(StrEnum):
    """Outcome of a test of a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Decision about a claim that compares a difference with a margin."""

    verdict: Verdict
    difference: Interval
    """First minus second, with the two-sided interval of level 1 - 2 alpha."""
    delta: float
    p_supported: float
    """p-value of the hypothesis that the claim is false; a small value supports the claim."""
    p_refuted: float
    """p-value of the hypothesis that the claim is true; a small value refutes the claim."""
    clusters_needed: int | None
    """Number of images for 80 % power if the difference stays as observed; None if no number would
    decide the claim."""


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
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = num_right / num_items
    centre = (share + z * z / (2 * num_items)) / (1 + z * z / num_items)
    variance = share * (1 - share) / num_items + z * z / (4 * num_items**2)
    half = z * math.sqrt(variance) / (1 + z * z / num_items)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_means(
    values: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    seed: int,
    names: Sequence[Name] = (),
    num_resamples: int = NUM_RESAMPLES,
) -> np.ndarray:
    """Return the means of resamples of whole clusters with replacement, shape (num_resamples,).

    Args:
        values: One value per item.
        clusters: Cluster of every item.
        seed: Seed of the random generator.
        names: Names that select an independent random stream of the seed.
        num_resamples: Number of resamples.

    Raises:
        DataError: If there are no values, or their number differs from that of the clusters.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or values.shape != (len(clusters),):
        raise DataError(
            f"{values.size} values and {len(clusters)} clusters; expected one cluster per value, "
            "and at least one"
        )
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    sizes = np.bincount(codes).astype(np.float64)
    sums = np.bincount(codes, weights=values)
    rng = named_rng(seed, "bootstrap", *names)
    num_clusters = len(sizes)
    rows = max(1, _CHUNK_DRAWS // num_clusters)
    is_balanced = bool((sizes == sizes[0]).all())
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, rows):
        shape = (min(rows, num_resamples - start), num_clusters)
        drawn = rng.integers(0, num_clusters, size=shape, dtype=np.int32)
        totals = sums[drawn].sum(axis=1)
        weights = num_clusters * sizes[0] if is_balanced else sizes[drawn].sum(axis=1)
        means[start : start + shape[0]] = totals / weights
    return means


def mean_interval(
    values: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    seed: int,
    names: Sequence[Name] = (),
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of scores in 0..1 with a percentile interval clustered by image.

    If all values are 0 or all are 1, resampling has no spread. The result is then Wilson's interval
    with the number of images as the number of trials.
    """
    means = bootstrap_means(values, clusters, seed=seed, names=names)
    num_clusters = len(np.unique(np.asarray(clusters)))
    value = float(np.mean(values))
    low, high = _percentiles(means, confidence)
    if np.ptp(values) == 0 and value in (0.0, 1.0):
        low, high = wilson_interval(value * num_clusters, num_clusters, confidence=confidence)
    return Interval(
        value=value, low=low, high=high, num_items=len(values), num_clusters=num_clusters
    )


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    seed: int,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of first - second over the same items, with a clustered interval."""
    differences = _paired_differences(first, second)
    means = bootstrap_means(differences, clusters, seed=seed, names=("paired",))
    return _build_interval(differences, clusters, means, confidence)


def equivalence(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    delta: float,
    seed: int,
    alpha: float = ALPHA,
) -> Decision:
    """Test whether two systems differ by less than delta in either direction (TOST).

    The claim is supported if both one-sided tests reject, that is, if the 1 - 2 alpha interval lies
    inside the margin. It is refuted if the interval lies outside the margin, otherwise undecided.
    """
    differences, means = _resample_differences(first, second, clusters, delta, seed)
    p_low, p_high = _p_value(means <= -delta), _p_value(means >= delta)
    p_refuted = min(_p_value(means <= delta), _p_value(means >= -delta))
    interval = _build_interval(differences, clusters, means, 1 - 2 * alpha)
    room = delta - abs(interval.value)
    return Decision(
        verdict=_decide(max(p_low, p_high), p_refuted, alpha),
        difference=interval,
        delta=delta,
        p_supported=max(p_low, p_high),
        p_refuted=p_refuted,
        clusters_needed=_clusters_needed(means, interval.num_clusters, room, alpha),
    )


def non_inferiority(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    delta: float,
    seed: int,
    alpha: float = ALPHA,
) -> Decision:
    """Test whether the first system is worse than the second by no more than delta.

    The claim is supported if the lower bound of the difference is above -delta, refuted if the
    upper bound is below -delta, otherwise undecided.
    """
    differences, means = _resample_differences(first, second, clusters, delta, seed)
    p_supported, p_refuted = _p_value(means <= -delta), _p_value(means >= -delta)
    interval = _build_interval(differences, clusters, means, 1 - 2 * alpha)
    room = interval.value + delta
    return Decision(
        verdict=_decide(p_supported, p_refuted, alpha),
        difference=interval,
        delta=delta,
        p_supported=p_supported,
        p_refuted=p_refuted,
        clusters_needed=_clusters_needed(means, interval.num_clusters, room, alpha),
    )


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return the adjusted p-values of a family of claims (Holm 1979), to be compared with alpha."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def apply_holm(decisions: Sequence[Decision], *, alpha: float = ALPHA) -> list[Decision]:
    """Correct the p-values and verdicts of a family of decisions for multiple testing.

    Support and refutation are two separate families.
    """
    supported = holm([decision.p_supported for decision in decisions])
    refuted = holm([decision.p_refuted for decision in decisions])
    return [
        dataclasses.replace(
            decision,
            verdict=_decide(float(p_yes), float(p_no), alpha),
            p_supported=float(p_yes),
            p_refuted=float(p_no),
        )
        for decision, p_yes, p_no in zip(decisions, supported, refuted, strict=True)
    ]


def _resample_differences(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    delta: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    if not delta > 0:
        raise DataError(
            f"the margin delta is {delta}; expected a positive number such as 0.02 for 2 points"
        )
    differences = _paired_differences(first, second)
    return differences, bootstrap_means(differences, clusters, seed=seed, names=("paired",))


def _paired_differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if np.shape(first) != np.shape(second):
        raise DataError(
            f"a paired comparison got {np.shape(first)} and {np.shape(second)} scores; expected "
            "scores of the same items in the same order"
        )
    return np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)


def _build_interval(
    values: np.ndarray, clusters: Sequence[str] | np.ndarray, means: np.ndarray, confidence: float
) -> Interval:
    low, high = _percentiles(means, confidence)
    return Interval(
        value=float(values.mean()),
        low=low,
        high=high,
        num_items=len(values),
        num_clusters=len(np.unique(np.asarray(clusters))),
    )


def _percentiles(means: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def _p_value(hits: np.ndarray) -> float:
    """Return the share of hits with a pseudo-count of one, since resampling can't show a p of 0."""
    return float((1 + np.count_nonzero(hits)) / (1 + len(hits)))


def _decide(p_supported: float, p_refuted: float, alpha: float) -> Verdict:
    if p_supported <= alpha:
        return Verdict.SUPPORTED
    return Verdict.REFUTED if p_refuted <= alpha else Verdict.UNDECIDED


def _clusters_needed(means: np.ndarray, num_clusters: int, room: float, alpha: float) -> int | None:
    """Estimate the number of clusters from a standard error that shrinks with its square root."""
    spread = float(means.std(ddof=1))
    if room <= 0:
        return None
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(POWER)
    return max(1, math.ceil(num_clusters * (z * spread / room) ** 2))
