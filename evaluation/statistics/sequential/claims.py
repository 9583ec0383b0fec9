"""Claims of a grid as signs of contrasts between the values of its trainings."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from core.errors import DataError
from evaluation.statistics.decisions import Verdict

_TIE = 1e-12
SUPPORTED, REFUTED, UNDECIDED = 0, 1, 2
ALL_VERDICTS = (Verdict.SUPPORTED, Verdict.REFUTED, Verdict.UNDECIDED)
"""Verdicts by their number in arrays."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """Amount by which the first of two values may be below the second."""

    margin: float = 0.0
    """Absolute amount."""
    kept: float = 1.0
    """Fraction of the second value that the first must reach; below 1 for a relative margin."""
    is_two_sided: bool = False
    """Whether the second may not be further below the first either (equivalence)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ContrastClaim:
    """A claim that is true if all of K contrasts of P values are positive.

    Support needs a rejection for every contrast (an intersection-union test, which needs no
    correction). Refutation needs one for some contrast, corrected for their number.
    """

    name: str
    weights_KP: np.ndarray
    margins_K: np.ndarray
    """Constants that are added to the contrasts."""
    is_two_sided: bool = False
    """Whether the contrasts are the two sides of one difference, of which one at most can fail."""

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.weights_KP.ndim != 2 or self.margins_K.shape != self.weights_KP.shape[:1]:  # noqa: PLR2004
            raise DataError(
                f"claim '{self.name}': contrasts of shape {self.weights_KP.shape} with margins of "
                f"shape {self.margins_K.shape}; expected (K, P) and (K,)"
            )

    @property
    def num_refutations(self) -> int:
        """Number of ways in which the claim can be refuted."""
        return 1 if self.is_two_sided else len(self.margins_K)

    @property
    def is_about_best(self) -> bool:
        """Return whether a cell is compared with others, of which any can refute the claim."""
        return len(self.margins_K) > 1 and not self.is_two_sided

    @property
    def points(self) -> tuple[int, ...]:
        """Points on which the claim depends."""
        return tuple(int(p) for p in np.flatnonzero(np.any(self.weights_KP != 0, axis=0)))

    def is_true(self, values_NP: np.ndarray) -> np.ndarray:
        """Return whether the claim is true for every row of values, shape (N,)."""
        contrasts_NK = values_NP @ self.weights_KP.T + self.margins_K
        true_N: np.ndarray = (contrasts_NK > 0).all(axis=1)
        return true_N

    def tails_below(self, means_NP: np.ndarray, covariance_PP: np.ndarray, df: float) -> np.ndarray:
        """Return the p-value of "at most 0" of every contrast of observed means, shape (N, K)."""
        return np.asarray(special.stdtr(df, -self._ratios(means_NP, covariance_PP)))

    def p_refuted(self, above_NK: np.ndarray) -> np.ndarray:
        """Return the p-value of "the claim is true" from those of "at least 0" of all contrasts."""
        corrected_N: np.ndarray = np.minimum(1.0, above_NK.min(axis=1) * self.num_refutations)
        return corrected_N

    def verdicts(
        self, means_NP: np.ndarray, covariance_PP: np.ndarray, df: float, alpha: float
    ) -> np.ndarray:
        """Return the number of the verdict (`ALL_VERDICTS`) per row of observed means, (N,)."""
        smallest_N = self._ratios(means_NP, covariance_PP).min(axis=1)
        verdicts_N = np.full(len(means_NP), UNDECIDED)
        verdicts_N[smallest_N <= special.stdtrit(df, alpha / self.num_refutations)] = REFUTED
        verdicts_N[smallest_N >= special.stdtrit(df, 1 - alpha)] = SUPPORTED
        return verdicts_N

    def _ratios(self, means_NP: np.ndarray, covariance_PP: np.ndarray) -> np.ndarray:
        """Return every contrast of observed means divided by its standard error, (N, K)."""
        variances_K = np.einsum("kp,pq,kq->k", self.weights_KP, covariance_PP, self.weights_KP)
        errors_K = np.sqrt(np.maximum(variances_K, _TIE**2))
        ratios_NK: np.ndarray = (means_NP @ self.weights_KP.T + self.margins_K) / errors_K
        return ratios_NK


def within_best(
    name: str,
    own: Sequence[int],
    others: Sequence[Sequence[int]],
    num_points: int,
    allowance: Allowance,
) -> ContrastClaim:
    """Return the claim that a cell is within a margin of each of some others.

    Args:
        name: Name of the claim.
        own: Points of the cell of the claim, one per training.
        others: Points of every other cell.
        num_points: Number of points of the grid.
        allowance: How far it may be below the others.
    """
    own_P = _mean_of(own, num_points)
    rows = [own_P - allowance.kept * _mean_of(other, num_points) for other in others]
    return ContrastClaim(
        name=name, weights_KP=np.array(rows), margins_K=np.full(len(rows), allowance.margin)
    )


def mean_difference(
    name: str,
    firsts: Sequence[Sequence[int]],
    seconds: Sequence[Sequence[int]],
    num_points: int,
    allowance: Allowance,
) -> ContrastClaim:
    """Return a claim about the mean difference of pairs of cells.

    Args:
        name: Name of the claim.
        firsts: Points of the first cell of every pair, one per training.
        seconds: Points of the second cell of every pair; empty for a comparison with 0.
        num_points: Number of points of the grid.
        allowance: How far the first may be below the second; nothing for superiority.
    """
    first_P = np.mean([_mean_of(points, num_points) for points in firsts], axis=0)
    second_P = np.zeros(num_points)
    if seconds:
        second_P = np.mean([_mean_of(points, num_points) for points in seconds], axis=0)
    rows = [first_P - allowance.kept * second_P]
    if allowance.is_two_sided:
        rows.append((2 - allowance.kept) * second_P - first_P)
    return ContrastClaim(
        name=name,
        weights_KP=np.array(rows),
        margins_K=np.full(len(rows), allowance.margin),
        is_two_sided=allowance.is_two_sided,
    )


def _mean_of(points: Sequence[int], num_points: int) -> np.ndarray:
    weights_P = np.zeros(num_points)
    weights_P[list(points)] = 1 / len(points)
    return weights_P
