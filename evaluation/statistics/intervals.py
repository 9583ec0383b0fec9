"""Intervals and comparisons that know which questions share an image.

Everything resamples images, not questions. Decisions are about a margin delta that was written
down beforehand: a claim is supported, refuted, or undecided (and then how many images it needs).
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
    """What the data say about a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A claim about a difference and a margin, and what became of it."""

    verdict: Verdict
    difference: Interval
    """First minus second; the interval is the two-sided one of level 1 - 2 alpha."""
    delta: float
    p_supported: float
    """p-value against the claim being false: small supports it."""
    p_refuted: float
    """p-value against the claim being true: small refutes it."""
    clusters_needed: int | None
    """Images for 80 % power if the difference stays as seen; None where no number would do."""


def wilson_interval(
    num_right: float, num_items: int, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Score interval of a share (0..1): sound at 0 and 1, where resampling has no spread."""
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
    """Means of resamples that draw whole clusters with replacement, shape (num_resamples,).

    Raises:
        DataError: no values, or not one cluster per value.
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
    """Mean of scores in 0..1 with a percentile interval clustered by image.

    Where all values are 0 or all are 1 a resample has no spread; the interval is then Wilson's
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
    """Mean of first - second on the same items, with a clustered interval."""
    differences = _differences(first, second)
    means = bootstrap_means(differences, clusters, seed=seed, names=("paired",))
    return _interval(differences, clusters, means, confidence)


def equivalence(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    delta: float,
    seed: int,
    alpha: float = ALPHA,
) -> Decision:
    """TOST: do the two differ by less than delta, in either direction?

    Supported if both one-sided tests reject (the 1 - 2 alpha interval lies inside the margin),
    refuted if the interval lies outside it, else undecided.
    """
    differences, means = _resampled(first, second, clusters, delta, seed)
    p_low, p_high = _p_value(means <= -delta), _p_value(means >= delta)
    p_refuted = min(_p_value(means <= delta), _p_value(means >= -delta))
    interval = _interval(differences, clusters, means, 1 - 2 * alpha)
    room = delta - abs(interval.value)
    return Decision(
        verdict=_verdict(max(p_low, p_high), p_refuted, alpha),
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
    """Is the first worse than the second by no more than delta?

    Supported if the lower bound of the difference is above -delta, refuted if the upper bound is
    below it, else undecided.
    """
    differences, means = _resampled(first, second, clusters, delta, seed)
    p_supported, p_refuted = _p_value(means <= -delta), _p_value(means >= -delta)
    interval = _interval(differences, clusters, means, 1 - 2 * alpha)
    room = interval.value + delta
    return Decision(
        verdict=_verdict(p_supported, p_refuted, alpha),
        difference=interval,
        delta=delta,
        p_supported=p_supported,
        p_refuted=p_refuted,
        clusters_needed=_clusters_needed(means, interval.num_clusters, room, alpha),
    )


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjusted p-values of a family of claims (Holm 1979): compare them with alpha."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def apply_holm(decisions: Sequence[Decision], *, alpha: float = ALPHA) -> list[Decision]:
    """The same decisions with p-values and verdicts corrected for their number.

    Support and refutation are corrected each within its own family.
    """
    supported = holm([decision.p_supported for decision in decisions])
    refuted = holm([decision.p_refuted for decision in decisions])
    return [
        dataclasses.replace(
            decision,
            verdict=_verdict(float(p_yes), float(p_no), alpha),
            p_supported=float(p_yes),
            p_refuted=float(p_no),
        )
        for decision, p_yes, p_no in zip(decisions, supported, refuted, strict=True)
    ]


def _resampled(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    delta: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    if not delta > 0:
        raise DataError(
            f"the margin delta is {delta}; expected a positive number, 0.02 is 2 points"
        )
    differences = _differences(first, second)
    return differences, bootstrap_means(differences, clusters, seed=seed, names=("paired",))


def _differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if np.shape(first) != np.shape(second):
        raise DataError(
            f"a paired comparison of {np.shape(first)} and {np.shape(second)} scores; "
            "both must be of the same items in the same order"
        )
    return np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)


def _interval(
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
    """Share of resamples on the wrong side; never 0, which no number of resamples could show."""
    return float((1 + np.count_nonzero(hits)) / (1 + len(hits)))


def _verdict(p_supported: float, p_refuted: float, alpha: float) -> Verdict:
    if p_supported <= alpha:
        return Verdict.SUPPORTED
    return Verdict.REFUTED if p_refuted <= alpha else Verdict.UNDECIDED


def _clusters_needed(means: np.ndarray, num_clusters: int, room: float, alpha: float) -> int | None:
    """Normal approximation: the standard error shrinks with the root of the images."""
    spread = float(means.std(ddof=1))
    if room <= 0:
        return None
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(POWER)
    return max(1, math.ceil(num_clusters * (z * spread / room) ** 2))
