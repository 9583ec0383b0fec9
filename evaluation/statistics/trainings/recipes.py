"""Claims about training recipes instead of single trained models.

The difference of two recipes varies with the images of the benchmark and with the training. Its
variance is estimated as

    image variance of the seed-averaged paired differences, clustered by image
    + coefficient * (variance between trainings - its part due to the noise of items),

where the coefficient is the sum of the squared weights of all trainings (1/K1 + 1/K2 for two
recipes with K1 and K2 seeds). The noise of items is subtracted because the image variance contains
it already. The interval is a t interval with the degrees of freedom of `difference_df`.

Two trainings with the same seed see the data in the same order and start from the same weights, so
their shifts may be positively correlated. The correlation is not estimated, because few trainings
do not suffice for it; the variance is that of the least favourable correlation between 0 and 1. For
two recipes with equal seeds this is 0.
"""

import bisect
import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from core.errors import DataError
from evaluation.statistics.claim_tests import (
    ClaimTest,
    StudentDifference,
    claim_bounds,
    decision_power,
)
from evaluation.statistics.decisions import (
    ALPHA,
    Bounds,
    Decision,
    RelativeMargin,
    Verdict,
    judge,
)
from evaluation.statistics.intervals import Interval, subtract_scores
from evaluation.statistics.trainings.recipe_spread import RecipePairs, RecipeSpread
from evaluation.statistics.trainings.training_variance import (
    SeedScores,
    TrainingVariance,
    training_variance,
)
from evaluation.statistics.uncertainty import POWER

__all__ = [
    "RecipeDecision",
    "SeedScores",
    "TrainingVariance",
    "recipe_decision",
    "training_variance",
]

_MAX_SEEDS, _MAX_GROWTH = 100, 1000
"""Largest number of additional seeds, and largest multiple of the images, that is considered."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RecipeDecision:
    """Decision about a claim that concerns recipes."""

    decision: Decision
    df: float | None
    """Degrees of freedom of the t distribution; None if the claim can't be decided."""
    more_seeds: int | None
    """Additional trainings of every compared cell for 80 % power if the difference stays as
    observed; 0 if the claim is decided, None if no number up to 100 suffices."""
    more_images: int | None
    """The same for additional images and the given seeds, up to 999 times the images."""


def recipe_decision(
    first: Sequence[SeedScores],
    second: Sequence[SeedScores],
    variance: TrainingVariance | None,
    *,
    test: ClaimTest | str,
    delta: float | RelativeMargin,
    alpha: float = ALPHA,
) -> RecipeDecision:
    """Decide a claim about the mean difference of pairs of recipes.

    The claim is supported if the two-sided interval of level 1 - 2 alpha lies inside the range of
    differences for which the claim is true, and refuted if the interval lies outside. The estimated
    training variance can make the interval shorter than that of the trained models; a p-value is
    therefore never below that of the same claim about these models.

    Args:
        first: First cell of every pair. Pairs may share cells.
        second: Second cell of every pair, in the same order.
        variance: Training variance of the grid, from `training_variance`.
        test: Kind of the claim.
        delta: Margin. The blind scores of a relative margin are means over the second cells and
            their seeds; their own training variance is neglected. 0 is allowed for superiority.
        alpha: One-sided level of both tests.

    Raises:
        DataError: If the lists are empty or of unequal length, or the items differ.
        ConfigError: If the test is unknown.
    """
    pairs = RecipePairs(first=first, second=second)
    claim = _RecipeClaim(
        pairs=pairs, margins_I=_margins(pairs, delta, test), test=test, alpha=alpha
    )
    reason = claim.lower.why_undecidable(variance)
    if isinstance(delta, RelativeMargin) and claim.size <= 0:
        reason = (
            "the second cells do not exceed their blind scores, so a margin relative to that does "
            "not exist"
        )
    if variance is None or reason:
        return claim.refuse(reason)
    return claim.decide(variance)


def _margins(
    pairs: RecipePairs, delta: float | RelativeMargin, test: ClaimTest | str
) -> np.ndarray:
    """Return the margin of every item."""
    if isinstance(delta, RelativeMargin):
        return delta.fraction * subtract_scores(pairs.mean_second, delta.blind)
    if not (delta > 0 or (delta == 0 and test == ClaimTest.SUPERIORITY)):
        raise DataError(
            f"the margin delta is {delta}; expected a positive number such as 0.02 for 2 points"
        )
    return np.full(len(pairs.clusters), delta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _RecipeClaim:
    """A claim that the difference of recipes lies above a lower and below an upper bound."""

    pairs: RecipePairs
    margins_I: np.ndarray
    test: ClaimTest | str
    alpha: float

    @property
    def size(self) -> float:
        """Mean of the margins."""
        return float(self.margins_I.mean())

    @functools.cached_property
    def lower(self) -> RecipeSpread:
        """The difference minus the lower bound, which is negative except for superiority."""
        is_above = self.test == ClaimTest.SUPERIORITY
        return self.pairs.spread(self.margins_I if is_above else -self.margins_I)

    @functools.cached_property
    def upper(self) -> RecipeSpread | None:
        """The difference minus the upper bound, if there is one."""
        return self.pairs.spread(self.margins_I) if self.test == ClaimTest.EQUIVALENCE else None

    def decide(self, variance: TrainingVariance) -> RecipeDecision:
        """Return the decision for a known training variance."""
        lower = self.lower.estimate(variance)
        lowers = (lower, self.lower.of_models)
        uppers = () if self.upper is None else (self.upper.estimate(variance), self.upper.of_models)
        p_supported = max(
            *(mean.tail_below(0.0) for mean in lowers), *(mean.tail_above(0.0) for mean in uppers)
        )
        p_refuted = self._refutation(lowers, uppers)
        verdict = judge(p_supported, p_refuted, self.alpha)
        is_open = verdict is Verdict.UNDECIDED
        more_images = self._more_images(variance) if is_open else 0
        shift = self.lower.value - self.value

        def bounds_at(confidence: float) -> Bounds:
            low, high = lower.bounds(confidence)
            if uppers:
                return low - shift, uppers[0].bounds(confidence)[1] + shift
            return low - shift, high - shift

        decision = Decision(
            verdict=verdict,
            difference=self._interval(bounds_at(1 - 2 * self.alpha)),
            delta=abs(self.size),
            p_supported=p_supported,
            p_refuted=p_refuted,
            clusters_needed=None if more_images is None else self.lower.num_clusters + more_images,
            confidence=1 - 2 * self.alpha,
            bounds_at=bounds_at,
        )
        return RecipeDecision(
            decision=decision,
            df=lower.df,
            more_seeds=self._more_seeds(variance) if is_open else 0,
            more_images=more_images,
        )

    def refuse(self, reason: str) -> RecipeDecision:
        """Return an undecided claim without an interval."""
        decision = Decision(
            verdict=Verdict.UNDECIDED,
            difference=self._interval((None, None)),
            delta=abs(self.size),
            p_supported=1.0,
            p_refuted=1.0,
            clusters_needed=None,
            reason=reason,
            confidence=1 - 2 * self.alpha,
        )
        return RecipeDecision(decision=decision, df=None, more_seeds=None, more_images=None)

    @property
    def value(self) -> float:
        """The estimated difference."""
        return float(self.pairs.differences.mean())

    def _refutation(
        self, lowers: Sequence[StudentDifference], uppers: Sequence[StudentDifference]
    ) -> float:
        """Return the p-value of the hypothesis that the claim is true."""
        if not uppers:
            return max(mean.tail_above(0.0) for mean in lowers)
        # With a large error, a mean beyond the far end of the margin is part of the p-value.
        if self.value >= 0:
            tails = [m.tail_below(0.0) + m.tail_above(2 * (m.value + self.size)) for m in uppers]
        else:
            tails = [m.tail_above(0.0) + m.tail_below(2 * (m.value - self.size)) for m in lowers]
        return min(1.0, max(tails))

    def _interval(self, bounds: Bounds) -> Interval:
        return Interval(
            value=self.value,
            low=bounds[0],
            high=bounds[1],
            num_items=len(self.pairs.clusters),
            num_clusters=self.lower.num_clusters,
        )

    def _more_seeds(self, variance: TrainingVariance) -> int | None:
        return _find_smallest(
            _MAX_SEEDS, lambda more: self._power(variance, more_seeds=more) >= POWER
        )

    def _more_images(self, variance: TrainingVariance) -> int | None:
        num_clusters = self.lower.num_clusters
        return _find_smallest(
            num_clusters * (_MAX_GROWTH - 1),
            lambda more: self._power(variance, growth=1 + more / num_clusters) >= POWER,
        )

    def _power(
        self, variance: TrainingVariance, *, more_seeds: int = 0, growth: float = 1.0
    ) -> float:
        """Return the power of a larger experiment if the difference stays as observed."""
        planned = self.lower.estimate(variance, more_seeds=more_seeds, growth=growth)
        low, high = claim_bounds(self.test, self.size)
        return decision_power(
            dataclasses.replace(planned, value=self.value),
            test=self.test,
            delta=self.size,
            alpha=self.alpha,
            is_support=low <= self.value <= high,
        )


def _find_smallest(limit: int, is_enough: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 1 to a limit that is enough, or None if none is."""
    if not is_enough(limit):
        return None
    return bisect.bisect_left(range(1, limit), 1, key=is_enough) + 1
