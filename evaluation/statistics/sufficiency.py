"""Analysis of the smallest sufficient share of target-language data.

All cells answer the same questions about the same images, so they are resampled together. The
comparisons are therefore paired, and the choice of the best share is part of what varies. A
saturating curve is fitted to the accuracies.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.intervals import CONFIDENCE

_NUM_RESAMPLES, _NUM_FITS = 2000, 200
_MIN_CURVE_POINTS = 4
"""Number of shares from which a curve with three parameters is over-determined."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SharePoint:
    """Accuracy and sufficiency of one share."""

    share: float
    value: float
    low: float
    high: float
    """Upper bound of the 95 % interval of the accuracy, clustered by image."""
    sufficient: float
    """Confidence that the accuracy lies within the margin of the best share, whichever it is."""
    next_gain: tuple[float, float, float] | None
    """Fitted gain of ten more points of share with its 95 % interval; None without a curve."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SufficiencyResult:
    """Result of a sweep over shares."""

    points: tuple[SharePoint, ...]
    delta: float
    smallest: float | None
    """Smallest share from which on all shares are sufficient with 95 % confidence; None if there is
    none."""
    detectable: float
    """Smallest paired difference between two cells that 80 % of such grids would detect."""


def smallest_sufficient_share(
    shares: Sequence[float],
    scores_SI: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    delta: float,
    seed: int,
) -> SufficiencyResult:
    """Find the smallest share whose accuracy is within a margin of the best.

    Args:
        shares: Shares in ascending order.
        scores_SI: Score in 0..1 of every item (columns) at every share (rows).
        clusters: Image of every item.
        delta: Margin in 0..1.
        seed: Seed of the resampling.

    Raises:
        DataError: If there are fewer than two shares, or the shapes do not match.
    """
    scores_SI = np.asarray(scores_SI, dtype=np.float64)
    if len(shares) < 2 or scores_SI.shape != (len(shares), len(clusters)):  # noqa: PLR2004
        raise DataError(
            f"{len(shares)} shares, scores of shape {scores_SI.shape}, {len(clusters)} clusters; "
            "expected at least two shares, one row each and one cluster per column"
        )
    means_RS = _resampled_means(scores_SI, clusters, seed)
    best_R1 = means_RS.max(axis=1, keepdims=True)
    sufficient_S = (means_RS >= best_R1 - delta).mean(axis=0)
    lows, highs = np.quantile(means_RS, [0.025, 0.975], axis=0)
    gains = _fit_gains(np.asarray(shares), scores_SI.mean(axis=1), means_RS)
    points = tuple(
        SharePoint(
            share=float(share),
            value=float(scores_SI[i].mean()),
            low=float(lows[i]),
            high=float(highs[i]),
            sufficient=float(sufficient_S[i]),
            next_gain=None if gains is None else gains[i],
        )
        for i, share in enumerate(shares)
    )
    return SufficiencyResult(
        points=points,
        delta=delta,
        smallest=_find_smallest(points),
        detectable=_detectable_difference(means_RS),
    )


def _resampled_means(
    scores_SI: np.ndarray, clusters: Sequence[str] | np.ndarray, seed: int
) -> np.ndarray:
    """Return means of shape (resamples, shares); all shares share the resampled images."""
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    sizes_C = np.bincount(codes).astype(np.float64)
    sums_SC = np.stack([np.bincount(codes, weights=row) for row in scores_SI])
    rng = named_rng(seed, "how much is enough")
    counts_RC = rng.multinomial(
        len(sizes_C), np.full(len(sizes_C), 1 / len(sizes_C)), size=_NUM_RESAMPLES
    ).astype(np.float64)
    means_RS: np.ndarray = (counts_RC @ sums_SC.T) / (counts_RC @ sizes_C)[:, None]
    return means_RS


def _find_smallest(points: Sequence[SharePoint]) -> float | None:
    """Return the smallest share such that it and all larger ones are sufficient."""
    found = None
    for point in reversed(points):
        if point.sufficient < CONFIDENCE:
            break
        found = point.share
    return found


def _detectable_difference(means_RS: np.ndarray) -> float:
    """Return 1.96 + 0.84 standard errors of the median pair (two-sided 5 % level, 80 % power)."""
    pairs = [
        float((means_RS[:, i] - means_RS[:, j]).std(ddof=1))
        for i in range(means_RS.shape[1])
        for j in range(i)
    ]
    return (1.959964 + 0.841621) * float(np.median(pairs))


def _fit_gains(
    shares_S: np.ndarray, means_S: np.ndarray, means_RS: np.ndarray
) -> list[tuple[float, float, float]] | None:
    """Return the gain of ten more points of share at every share, with 95 % intervals."""
    if len(shares_S) < _MIN_CURVE_POINTS:
        return None
    best = _fit_curve(shares_S, means_S)
    fits = [_fit_curve(shares_S, row, start=best) for row in means_RS[:_NUM_FITS]]
    steps_FS = np.array(
        [_evaluate_curve(f, shares_S + 0.1) - _evaluate_curve(f, shares_S) for f in fits]
    )
    own_S = _evaluate_curve(best, shares_S + 0.1) - _evaluate_curve(best, shares_S)
    lows, highs = np.quantile(steps_FS, [0.025, 0.975], axis=0)
    return [(float(g), float(a), float(b)) for g, a, b in zip(own_S, lows, highs, strict=True)]


def _evaluate_curve(parameters: np.ndarray, shares_S: np.ndarray) -> np.ndarray:
    """Evaluate start + rise * (1 - exp(-share / scale))."""
    start, rise, scale = parameters
    curve_S: np.ndarray = start + rise * (1 - np.exp(-shares_S / scale))
    return curve_S


def _fit_curve(
    shares_S: np.ndarray, means_S: np.ndarray, *, start: np.ndarray | None = None
) -> np.ndarray:
    guess = np.array([means_S[0], max(means_S.max() - means_S[0], 1e-3), 0.2])
    found: np.ndarray = least_squares(
        lambda parameters: _evaluate_curve(parameters, shares_S) - means_S,
        guess if start is None else start,
        bounds=([-1.0, -1.0, 0.01], [1.0, 2.0, 5.0]),
    ).x
    return found
