"""How much is enough: accuracies over a share, resampled together, and a saturating curve.

All cells answered the same questions about the same images, so one resample of images moves
them together: what is compared is paired, and the choice of the best share is part of what varies.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares

from core.errors import DataError
from core.rng import named_rng

CONFIDENCE = 0.95
_NUM_RESAMPLES, _NUM_FITS = 2000, 200
_FEWEST_POINTS = 4
"""Shares that a curve of three numbers needs to be held to account."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SharePoint:
    """One share."""

    share: float
    value: float
    low: float
    high: float
    """95 % interval of the accuracy, by image."""
    sufficient: float
    """Confidence that it lies within the margin of the best share, whichever that is."""
    next_gain: tuple[float, float, float] | None
    """Fitted gain of ten more points of share, with its 95 % interval; None without a curve."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SufficiencyResult:
    """What a sweep of shares says."""

    points: tuple[SharePoint, ...]
    delta: float
    smallest: float | None
    """Smallest share from which on all are sufficient with 95 % confidence; None if none is."""
    detectable: float
    """Smallest paired difference between two of the cells that 80 % of such grids would show."""


def smallest_sufficient_share(
    shares: Sequence[float],
    scores_SI: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    delta: float,
    seed: int,
) -> SufficiencyResult:
    """Decide over shares.

    Args:
        shares: ascending.
        scores_SI: score of every item (columns) at every share (rows), 0..1.
        clusters: image of every item.
        delta: margin, 0..1.
        seed: of the resampling.

    Raises:
        DataError: fewer than two shares, or not one row per share and one cluster per item.
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
    gains = _gains(np.asarray(shares), scores_SI.mean(axis=1), means_RS)
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
        smallest=_smallest(points),
        detectable=_detectable(means_RS),
    )


def _resampled_means(
    scores_SI: np.ndarray, clusters: Sequence[str] | np.ndarray, seed: int
) -> np.ndarray:
    """Means (resamples, shares), whole images drawn with replacement, the same for all shares."""
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    sizes_C = np.bincount(codes).astype(np.float64)
    sums_SC = np.stack([np.bincount(codes, weights=row) for row in scores_SI])
    rng = named_rng(seed, "how much is enough")
    counts_RC = rng.multinomial(
        len(sizes_C), np.full(len(sizes_C), 1 / len(sizes_C)), size=_NUM_RESAMPLES
    ).astype(np.float64)
    means_RS: np.ndarray = (counts_RC @ sums_SC.T) / (counts_RC @ sizes_C)[:, None]
    return means_RS


def _smallest(points: Sequence[SharePoint]) -> float | None:
    """From the largest share down, as long as each is sufficient."""
    found = None
    for point in reversed(points):
        if point.sufficient < CONFIDENCE:
            break
        found = point.share
    return found


def _detectable(means_RS: np.ndarray) -> float:
    """(1.96 + 0.84) standard errors of the median pair (5 %, two-sided; 80 % power)."""
    pairs = [
        float((means_RS[:, i] - means_RS[:, j]).std(ddof=1))
        for i in range(means_RS.shape[1])
        for j in range(i)
    ]
    return (1.959964 + 0.841621) * float(np.median(pairs))


def _gains(
    shares_S: np.ndarray, means_S: np.ndarray, means_RS: np.ndarray
) -> list[tuple[float, float, float]] | None:
    """What ten more points of share buy at each share, from the curve and from its resamples."""
    if len(shares_S) < _FEWEST_POINTS:
        return None
    best = _fit(shares_S, means_S)
    fits = [_fit(shares_S, row, start=best) for row in means_RS[:_NUM_FITS]]
    steps_FS = np.array([_curve(f, shares_S + 0.1) - _curve(f, shares_S) for f in fits])
    own_S = _curve(best, shares_S + 0.1) - _curve(best, shares_S)
    lows, highs = np.quantile(steps_FS, [0.025, 0.975], axis=0)
    return [(float(g), float(a), float(b)) for g, a, b in zip(own_S, lows, highs, strict=True)]


def _curve(parameters: np.ndarray, shares_S: np.ndarray) -> np.ndarray:
    """Start + rise * (1 - exp(-share / scale))."""
    start, rise, scale = parameters
    curve_S: np.ndarray = start + rise * (1 - np.exp(-shares_S / scale))
    return curve_S


def _fit(
    shares_S: np.ndarray, means_S: np.ndarray, *, start: np.ndarray | None = None
) -> np.ndarray:
    guess = np.array([means_S[0], max(means_S.max() - means_S[0], 1e-3), 0.2])
    found: np.ndarray = least_squares(
        lambda parameters: _curve(parameters, shares_S) - means_S,
        guess if start is None else start,
        bounds=([-1.0, -1.0, 0.01], [1.0, 2.0, 5.0]),
    ).x
    return found
