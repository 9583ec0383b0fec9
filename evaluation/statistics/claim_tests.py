"""Kinds of claims about a difference, and the power of the t tests that decide them."""

import dataclasses
import math
from enum import StrEnum

import numpy as np
from scipy import special

from core.errors import ConfigError
from evaluation.statistics.decisions import ALPHA
from evaluation.statistics.small_samples import student_quantile

_TIE, _FAR = 1e-12, 30.0
_POINTS, _DOUBLE_WEIGHTS = np.polynomial.legendre.leggauss(64)
_NODES, _WEIGHTS = (_POINTS + 1) / 2, _DOUBLE_WEIGHTS / 2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StudentDifference:
    """A difference whose estimate has a t distribution."""

    value: float
    standard_error: float
    df: float
    """Degrees of freedom of the standard error."""

    def tail_below(self, limit: float) -> float:
        """Return the p-value of the hypothesis that the true difference is at most the limit."""
        return float(special.stdtr(self.df, (limit - self.value) / self.standard_error))

    def tail_above(self, limit: float) -> float:
        """Return the p-value of the hypothesis that the true difference is at least the limit."""
        return float(special.stdtr(self.df, (self.value - limit) / self.standard_error))

    def bounds(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval."""
        half = student_quantile(confidence, self.df) * self.standard_error
        return self.value - half, self.value + half


class ClaimTest(StrEnum):
    """Kind of a claim about the difference of two recipes, with the margin delta."""

    NON_INFERIORITY = "non_inferiority"
    """The difference is above -delta."""
    EQUIVALENCE = "equivalence"
    """The difference is between -delta and delta."""
    SUPERIORITY = "superiority"
    """The difference is above delta."""


def claim_bounds(test: ClaimTest | str, delta: float) -> tuple[float, float]:
    """Return the open range of differences for which a claim is true."""
    if test == ClaimTest.NON_INFERIORITY:
        return -delta, math.inf
    if test == ClaimTest.EQUIVALENCE:
        return -delta, delta
    if test == ClaimTest.SUPERIORITY:
        return delta, math.inf
    raise ConfigError(f"unknown test '{test}'; expected one of {', '.join(ClaimTest)}")


def decision_power(
    mean: StudentDifference,
    *,
    test: ClaimTest | str,
    delta: float,
    alpha: float = ALPHA,
    is_support: bool = True,
) -> float:
    """Return the probability that a t test supports a claim, or refutes it.

    Args:
        mean: True difference with the standard error and degrees of freedom of its estimate.
        test: Kind of the claim.
        delta: Margin of the claim.
        alpha: One-sided level.
        is_support: Whether to return the probability of support or of refutation.
    """
    low, high = claim_bounds(test, delta)
    if not is_support:
        return min(1.0, _reach_below(mean, low, alpha) + _reach_below(_negate(mean), -high, alpha))
    if math.isinf(high):
        return _reach_below(_negate(mean), -low, alpha)
    return _reach_inside(mean, low, high, alpha)


def _negate(mean: StudentDifference) -> StudentDifference:
    return dataclasses.replace(mean, value=-mean.value)


def _reach_below(mean: StudentDifference, limit: float, alpha: float) -> float:
    """Return the probability that the upper bound of a one-sided interval is below a limit."""
    if math.isinf(limit):
        return 0.0
    distance = (limit - mean.value) / max(mean.standard_error, _TIE)
    # The noncentral t distribution is not computed reliably far out, where the answer is known.
    distance = min(max(distance, -_FAR), _FAR)
    reach = special.stdtrit(mean.df, 1 - alpha)
    return float(special.nctdtr(mean.df, -distance, -reach))


def _reach_inside(mean: StudentDifference, low: float, high: float, alpha: float) -> float:
    """Return the probability that both one-sided intervals lie between two limits.

    This is Owen's Q: an integral over the distribution of the estimated standard error.
    """
    ratios = np.sqrt(special.chdtri(mean.df, 1 - _NODES) / mean.df)
    reaches = special.stdtrit(mean.df, 1 - alpha) * ratios
    se = max(mean.standard_error, _TIE)
    hits = special.ndtr((high - mean.value) / se - reaches)
    hits -= special.ndtr((low - mean.value) / se + reaches)
    return float(np.maximum(0.0, hits) @ _WEIGHTS)
