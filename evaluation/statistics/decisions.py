"""Decisions about claims that compare two systems on the same items, clustered by image.

A margin is fixed in advance, either as an absolute number or as a fraction of what the images
contribute to the second system. A claim is supported, refuted or undecided, and the number of
images that would decide it is estimated.
"""

import dataclasses
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TypeAlias

import numpy as np

from core.errors import DataError
from evaluation.statistics.intervals import Interval, subtract_scores
from evaluation.statistics.uncertainty import MIN_CLUSTERS, Uncertainty, describe_mean

ALPHA = 0.05

Bounds: TypeAlias = tuple[float | None, float | None]


class Verdict(StrEnum):
    """Outcome of a test of a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RelativeMargin:
    """A margin that is a fraction of the second system's score minus its blind score.

    The margin is an estimate as well. The test therefore concerns first - second + fraction *
    (second - blind), so that its error includes that of the margin.
    """

    fraction: float
    """Fraction in 0..1, for example 0.1."""
    blind: np.ndarray
    """Scores without the image, in the order of the items: shape (I,), or (S, I) for S shares."""

    def __post_init__(self) -> None:
        """Check the fraction."""
        if not 0 < self.fraction < 1:
            raise DataError(
                f"a relative margin of {self.fraction}; expected a fraction between 0 and 1, such "
                "as 0.1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Decision about a claim that compares a difference with a margin."""

    verdict: Verdict
    difference: Interval
    """First minus second, with the two-sided interval of level `confidence`."""
    delta: float
    """The margin; the estimate of a relative one."""
    p_supported: float
    """p-value of the hypothesis that the claim is false; a small value supports the claim."""
    p_refuted: float
    """p-value of the hypothesis that the claim is true; a small value refutes the claim."""
    clusters_needed: int | None
    """Number of images for 80 % power if the difference stays as observed; None if no number would
    decide the claim."""
    reason: str = ""
    """Why the claim can't be decided, or empty."""
    confidence: float = 1 - 2 * ALPHA
    """Level of the interval of the difference; it excludes what a verdict excludes."""
    bounds_at: Callable[[float], Bounds] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )
    """Bounds of the difference at another level; None if there are none."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """Results of the tests of a claim; the fields are those of `Decision`."""

    margin: float
    p_supported: float
    p_refuted: float
    clusters_needed: int | None
    bounds_at: Callable[[float], Bounds]


def equivalence(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    delta: float | RelativeMargin,
    seed: int,
    alpha: float = ALPHA,
) -> Decision:
    """Test whether two systems differ by less than a margin in either direction (TOST).

    The claim is supported if both one-sided tests reject, that is, if the 1 - 2 alpha interval lies
    inside the margin. It is refuted if the interval lies outside the margin, otherwise undecided.

    Args:
        first: Score of the first system per item.
        second: Score of the second system per item.
        clusters: Image of every item.
        delta: The margin.
        seed: Seed of the resampling.
        alpha: Level of each decision.

    Raises:
        DataError: If the margin is not positive, or the numbers of scores or clusters differ.
    """
    differences, margins, size = _prepare(first, second, delta)
    lower = describe_mean(differences + margins, clusters, seed=seed)
    upper = describe_mean(differences - margins, clusters, seed=seed)
    value = float(differences.mean())
    if lower is None or upper is None or size <= 0:
        return _refuse(differences, clusters, size)
    # With a large error, a mean beyond the far end of the margin is part of the p-value.
    if value >= 0:
        p_refuted = upper.tail_below(0.0) + upper.tail_above(2 * (upper.value + size))
    else:
        p_refuted = lower.tail_above(0.0) + lower.tail_below(2 * (lower.value - size))
    outcome = _Outcome(
        margin=size,
        p_supported=max(lower.tail_below(0.0), upper.tail_above(0.0)),
        p_refuted=min(1.0, p_refuted),
        clusters_needed=lower.clusters_needed(size - abs(value), alpha),
        bounds_at=lambda level: (lower.bounds(level)[0] - size, upper.bounds(level)[1] + size),
    )
    return _decide(differences, clusters, outcome, alpha)


def non_inferiority(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    delta: float | RelativeMargin,
    seed: int,
    alpha: float = ALPHA,
) -> Decision:
    """Test whether the first system is worse than the second by less than a margin.

    The claim is supported if the lower bound of the difference is above the negative margin,
    refuted if the upper bound is below it, otherwise undecided. Arguments and errors are those of
    `equivalence`.
    """
    differences, margins, size = _prepare(first, second, delta)
    if size <= 0:
        return _refuse(differences, clusters, size)
    return _one_sided(differences, margins, clusters, size=size, seed=seed, alpha=alpha)


def superiority(
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    delta: float = 0.0,
    seed: int,
    alpha: float = ALPHA,
) -> Decision:
    """Test whether the first system is better than the second by more than delta.

    The claim is supported if the lower bound of the difference is above delta, refuted if the upper
    bound is below it, otherwise undecided. Equal systems are undecided with delta = 0. Other
    arguments are those of `equivalence`.

    Raises:
        DataError: If delta is negative, or the numbers of scores or clusters differ.
    """
    if not delta >= 0:
        raise DataError(f"the margin delta is {delta}; expected 0 or a positive number")
    differences = subtract_scores(first, second)
    margins = np.full_like(differences, -delta)
    return _one_sided(differences, margins, clusters, size=-delta, seed=seed, alpha=alpha)


def judge(p_supported: float, p_refuted: float, alpha: float) -> Verdict:
    """Return the verdict that two p-values imply at a level."""
    if p_supported <= alpha:
        return Verdict.SUPPORTED
    return Verdict.REFUTED if p_refuted <= alpha else Verdict.UNDECIDED


def explain_few_clusters(num_clusters: int, *, name: str = "images") -> str:
    """Return why this number of clusters, called `name`, decides nothing."""
    return f"only {num_clusters} {name}: at least {MIN_CLUSTERS} are needed"


def _prepare(
    first: np.ndarray, second: np.ndarray, delta: float | RelativeMargin
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return differences, the margin per item, and the margin."""
    differences = subtract_scores(first, second)
    if isinstance(delta, RelativeMargin):
        margins = delta.fraction * subtract_scores(second, delta.blind)
        return differences, margins, float(margins.mean())
    if not delta > 0:
        raise DataError(
            f"the margin delta is {delta}; expected a positive number such as 0.02 for 2 points"
        )
    return differences, np.full_like(differences, delta), delta


def _one_sided(
    differences: np.ndarray,
    margins: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    size: float,
    seed: int,
    alpha: float,
) -> Decision:
    """Test whether the mean of differences plus margins is positive."""
    found: Uncertainty | None = describe_mean(differences + margins, clusters, seed=seed)
    if found is None:
        return _refuse(differences, clusters, size)

    def bounds_at(level: float) -> Bounds:
        low, high = found.bounds(level)
        return low - size, high - size

    outcome = _Outcome(
        margin=abs(size),
        p_supported=found.tail_below(0.0),
        p_refuted=found.tail_above(0.0),
        clusters_needed=found.clusters_needed(found.value, alpha),
        bounds_at=bounds_at,
    )
    return _decide(differences, clusters, outcome, alpha)


def _decide(
    differences: np.ndarray, clusters: Sequence[str] | np.ndarray, outcome: _Outcome, alpha: float
) -> Decision:
    return Decision(
        verdict=judge(outcome.p_supported, outcome.p_refuted, alpha),
        difference=_interval(differences, clusters, outcome.bounds_at(1 - 2 * alpha)),
        delta=outcome.margin,
        p_supported=outcome.p_supported,
        p_refuted=outcome.p_refuted,
        clusters_needed=outcome.clusters_needed,
        confidence=1 - 2 * alpha,
        bounds_at=outcome.bounds_at,
    )


def _refuse(differences: np.ndarray, clusters: Sequence[str] | np.ndarray, size: float) -> Decision:
    """Return the decision about a claim that these data can't decide."""
    interval = _interval(differences, clusters, (None, None))
    is_few = interval.num_clusters < MIN_CLUSTERS
    return Decision(
        verdict=Verdict.UNDECIDED,
        difference=interval,
        delta=abs(size),
        p_supported=1.0,
        p_refuted=1.0,
        clusters_needed=MIN_CLUSTERS if is_few else None,
        reason=explain_few_clusters(interval.num_clusters)
        if is_few
        else f"the second does not exceed its blind score ({100 * size:+.1f} points of margin), so "
        "a margin relative to it does not exist",
    )


def _interval(
    differences: np.ndarray, clusters: Sequence[str] | np.ndarray, bounds: Bounds
) -> Interval:
    return Interval(
        value=float(differences.mean()),
        low=bounds[0],
        high=bounds[1],
        num_items=len(differences),
        num_clusters=len(np.unique(np.asarray(clusters))),
    )
