"""Analysis of the smallest sufficient share of target-language data.

All cells answer the same questions about the same images, so comparisons are paired, and the best
share is never taken as known (`share_comparison`). A saturating curve is fitted to the accuracies,
and reported only if the data do not contradict it.
"""

import dataclasses
from collections.abc import Collection, Sequence
from statistics import NormalDist

import numpy as np

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.decisions import (
    ALPHA,
    Bounds,
    Decision,
    RelativeMargin,
    explain_few_clusters,
    judge,
)
from evaluation.statistics.intervals import Interval, mean_interval
from evaluation.statistics.sweeps.curve import SaturatingCurve, fit_curve
from evaluation.statistics.sweeps.share_comparison import Drop, ShareComparison
from evaluation.statistics.uncertainty import MIN_CLUSTERS, POWER

_NUM_REFITS = 4_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SharePoint:
    """Accuracy and sufficiency of one share."""

    share: float
    value: float
    low: float | None
    """Lower bound of the 95 % interval of the accuracy; None with too few images."""
    high: float | None
    p_sufficient: float
    """p-value of "worse than the best share by the margin or more", whichever share is the best."""
    p_insufficient: float
    """p-value of "within the margin of the best share"."""
    next_gain: tuple[float, float, float] | None
    """Gain of ten more points of share on the curve with its 95 % interval; None without a curve
    that fits."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SufficiencyResult:
    """Result of a sweep over shares."""

    points: tuple[SharePoint, ...]
    delta: float
    """The margin; of a relative one, its value for the highest accuracy observed."""
    sufficient: tuple[float, ...]
    """Shares of which, with 95 % confidence, *all* are within the margin of the best."""
    smallest: float | None
    """Smallest of the sufficient shares; None if there are none."""
    drops: tuple[Drop, ...]
    """Significant decreases towards a larger share."""
    detectable: float | None
    """Smallest paired difference between two cells that 80 % of such grids would detect; None with
    too few images."""
    curve: SaturatingCurve | None
    """Fitted curve; None with fewer than four shares, or two cells with equal scores."""
    reason: str
    """Why nothing can be decided, or empty."""
    comparison: ShareComparison
    """The comparisons behind the p-values."""


def sufficient_shares(
    shares: Sequence[float],
    scores_SI: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    delta: float | RelativeMargin,
    seed: int,
    left_out_of_curve: Collection[float] = (),
) -> SufficiencyResult:
    """Find the shares whose accuracy is within a margin of the best.

    Args:
        shares: Shares in ascending order.
        scores_SI: Score in 0..1 of every item (columns) at every share (rows).
        clusters: Image of every item.
        delta: Margin in 0..1, or a fraction of what the image contributes at the best share.
        seed: Seed of the resampling.
        left_out_of_curve: Shares that the curve must not use because another regime rules there,
            such as a cell that does not exceed its baselines.

    Raises:
        DataError: If there are fewer than two shares, the shapes do not match, or the margin is not
            positive.
    """
    scores_SI = np.asarray(scores_SI, dtype=np.float64)
    comparison = ShareComparison(shares, scores_SI, clusters, delta=delta)
    margin = comparison.margin(int(np.argmax(comparison.means)))
    reason = _explain(comparison, margin)
    curve = None if reason else _fit(comparison, left_out_of_curve, seed)
    sufficient = () if reason else comparison.sufficient()
    is_few = comparison.num_clusters < MIN_CLUSTERS
    drops = () if is_few else comparison.drops()
    intervals = [mean_interval(row, clusters, seed=seed) for row in scores_SI]
    z = NormalDist().inv_cdf(1 - ALPHA / 2) + NormalDist().inv_cdf(POWER)
    return SufficiencyResult(
        points=tuple(
            SharePoint(
                share=share,
                value=intervals[i].value,
                low=intervals[i].low,
                high=intervals[i].high,
                p_sufficient=1.0 if reason else comparison.p_sufficient(i),
                p_insufficient=1.0 if reason else comparison.p_insufficient(i),
                next_gain=_gain(curve, share),
            )
            for i, share in enumerate(comparison.shares)
        ),
        delta=margin,
        sufficient=sufficient,
        smallest=min(sufficient, default=None),
        drops=drops,
        detectable=None if is_few else z * float(np.median(comparison.standard_errors())),
        curve=curve,
        reason=reason,
        comparison=comparison,
    )


def enough_decision(result: SufficiencyResult, share: float, *, alpha: float = ALPHA) -> Decision:
    """Decide the claim that a share is within the margin of the best share.

    The difference is that to the best of the *other* shares, which no selection favours: its lower
    bound holds against each of them, its upper one is corrected for their number.

    Raises:
        DataError: If the share is not among those of the result.
    """
    comparison = result.comparison
    if share not in comparison.shares:
        raise DataError(f"share {share} has no cell; the shares are {list(comparison.shares)}")
    at = comparison.shares.index(share)
    point = result.points[at]

    def bounds_at(confidence: float) -> Bounds:
        if result.reason:
            return None, None
        low, high = comparison.bounds(at, confidence)
        return low - result.delta, high - result.delta

    low, high = bounds_at(1 - 2 * alpha)
    needed: int | None = None
    if comparison.num_clusters < MIN_CLUSTERS:
        needed = MIN_CLUSTERS
    elif not result.reason:
        hardest = comparison.hardest(at)
        needed = hardest.clusters_needed(hardest.value, alpha)
    best_other = max(p.value for p in result.points if p.share != share)
    return Decision(
        verdict=judge(point.p_sufficient, point.p_insufficient, alpha),
        difference=Interval(
            value=point.value - best_other,
            low=low,
            high=high,
            num_items=int(comparison.totals.sizes_C.sum()),
            num_clusters=comparison.num_clusters,
        ),
        delta=result.delta,
        p_supported=point.p_sufficient,
        p_refuted=point.p_insufficient,
        clusters_needed=needed,
        reason=result.reason,
        confidence=1 - 2 * alpha,
        bounds_at=bounds_at,
    )


def _explain(comparison: ShareComparison, margin: float) -> str:
    """Return why these data can't decide anything, or an empty text."""
    if comparison.num_clusters < MIN_CLUSTERS:
        return explain_few_clusters(comparison.num_clusters)
    if margin <= 0:
        return (
            "the best share does not exceed its blind score, so a margin relative to it does not "
            "exist"
        )
    return ""


def _fit(
    comparison: ShareComparison, left_out: Collection[float], seed: int
) -> SaturatingCurve | None:
    used = [i for i, share in enumerate(comparison.shares) if share not in left_out]
    if not used:
        return None
    covariance_SS = comparison.covariance[np.ix_(used, used)]
    means_S = comparison.means[used]
    rng = named_rng(seed, "saturating curve")
    means_RS = rng.multivariate_normal(means_S, covariance_SS, size=_NUM_REFITS, method="svd")
    return fit_curve(
        np.array(comparison.shares)[used],
        means_S,
        covariance_SS,
        means_RS,
        num_clusters=comparison.num_clusters,
    )


def _gain(curve: SaturatingCurve | None, share: float) -> tuple[float, float, float] | None:
    if curve is None or not curve.is_adequate or share not in curve.shares:
        return None
    return curve.gains[curve.shares.index(share)]
