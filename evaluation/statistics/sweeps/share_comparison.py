"""Tests of every share against whichever share is the best.

No share is selected before it is tested. "Share s is within the margin of the best" means that
it is within the margin of every other share:

* Support needs a rejection of "s is worse than t by the margin or more" for *every* other share t.
  This is an intersection-union test (Berger 1982), so the largest p-value is valid without any
  correction, whichever share is the best.
* Refutation needs a rejection of "s is within the margin of t" for *some* t. The smallest p-value
  is multiplied by the number of other shares, which removes the winner's curse.

Differences between shares are paired, and have cluster-robust errors and t distributions.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from core.errors import DataError
from evaluation.statistics.decisions import ALPHA, RelativeMargin
from evaluation.statistics.multiple_testing import holm
from evaluation.statistics.resampling import ClusterTotals, total_clusters
from evaluation.statistics.small_samples import clustered_covariance
from evaluation.statistics.uncertainty import ItemSpread, Uncertainty, analytic_mean


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """A significant decrease of the accuracy towards a larger share."""

    smaller: float
    """The smaller share, which has the higher accuracy."""
    larger: float
    difference: float
    """Accuracy at the larger share minus that at the smaller one; negative."""
    p_value: float
    """p-value, corrected for all pairs of shares (Holm)."""


class ShareComparison:
    """Pairwise comparisons of S shares on the same items."""

    def __init__(
        self,
        shares: Sequence[float],
        scores_SI: np.ndarray,
        clusters: Sequence[str] | np.ndarray,
        *,
        delta: float | RelativeMargin,
    ) -> None:
        """Estimate all differences and their errors.

        Args:
            shares: Shares in ascending order.
            scores_SI: Score in 0..1 of every item at every share.
            clusters: Image of every item.
            delta: Margin; a relative one is a fraction of the best share's score minus its blind
                score.

        Raises:
            DataError: If there are fewer than two shares, they are not in ascending order, the
                shapes do not match, or the margin is not positive.
        """
        scores_SI = np.asarray(scores_SI, dtype=np.float64)
        _check(shares, scores_SI, clusters, delta)
        self.shares = tuple(float(share) for share in shares)
        # The margin is a linear combination of rows too, so its error is that of the combination.
        rows = scores_SI
        margins_SM = np.zeros((len(shares), len(shares)))
        self._constant = 0.0
        if isinstance(delta, RelativeMargin):
            blind_BI = np.atleast_2d(np.asarray(delta.blind, dtype=np.float64))
            rows = np.vstack([scores_SI, blind_BI])
            of_blind = np.eye(len(shares)) if len(blind_BI) > 1 else np.ones((len(shares), 1))
            margins_SM = delta.fraction * np.hstack([np.eye(len(shares)), -of_blind])
        else:
            self._constant = delta
        self._totals = total_clusters(rows, clusters)
        self._margins_SM = margins_SM
        self._means_M = self._totals.means
        self._covariance_MM = clustered_covariance(self._totals)
        self._rows_MI = rows
        self._surpluses: dict[tuple[int, int], Uncertainty] = {}

    @property
    def num_clusters(self) -> int:
        """Number of images."""
        return self._totals.num_clusters

    @property
    def totals(self) -> ClusterTotals:
        """Sums per image; the rows of the shares come first."""
        return self._totals

    @property
    def means(self) -> np.ndarray:
        """Accuracy of every share, shape (S,)."""
        return self._means_M[: len(self.shares)]

    @property
    def covariance(self) -> np.ndarray:
        """Cluster-robust covariance of the accuracies, shape (S, S)."""
        return self._covariance_MM[: len(self.shares), : len(self.shares)]

    def margin(self, share: int) -> float:
        """Return the margin that applies if the share at this index is the best."""
        return self._constant + float(self._margins_SM[share] @ self._means_M)

    def surplus(self, first: int, second: int) -> Uncertainty:
        """Return what is known about accuracy(first) - accuracy(second) + margin."""
        if (first, second) not in self._surpluses:
            weights_M = self._difference(first, second) + self._margins_SM[second]
            self._surpluses[first, second] = self._describe(weights_M, self._constant)
        return self._surpluses[first, second]

    def p_sufficient(self, share: int) -> float:
        """Return the p-value of "worse than the best by the margin or more"."""
        return max(self.surplus(share, other).tail_below(0.0) for other in self._others(share))

    def p_insufficient(self, share: int) -> float:
        """Return the p-value of "within the margin of the best"."""
        others = self._others(share)
        smallest = min(self.surplus(share, other).tail_above(0.0) for other in others)
        return min(1.0, len(others) * smallest)

    def bounds(self, share: int, confidence: float) -> tuple[float, float]:
        """Return bounds of the share's accuracy minus the best of the others, plus the margin.

        Each side holds with the probability 0.5 + confidence / 2. The lower bound is positive if
        and only if the share is sufficient at that level, the upper one negative if and only if it
        is insufficient.
        """
        others = self._others(share)
        found = [self.surplus(share, other) for other in others]
        corrected = 1 - (1 - confidence) / len(others)
        return (
            min(one.bounds(confidence)[0] for one in found),
            min(one.bounds(corrected)[1] for one in found),
        )

    def hardest(self, share: int) -> Uncertainty:
        """Return the comparison of the share that is the least certain to be within the margin."""
        found = [self.surplus(share, other) for other in self._others(share)]
        return max(found, key=lambda one: (one.tail_below(0.0), -one.value))

    def sufficient(self, *, alpha: float = ALPHA) -> tuple[float, ...]:
        """Return the shares that are *all* within the margin of the best.

        The probability that the set contains any share which is not is at most alpha. It results
        from Holm's procedure over the shares; at most S - 1 of S shares can be insufficient, since
        the best is not (Shaffer 1986).
        """
        p_values = [self.p_sufficient(i) for i in range(len(self.shares))]
        adjusted = holm(p_values, max_true=len(p_values) - 1)
        return tuple(s for s, p in zip(self.shares, adjusted, strict=True) if p <= alpha)

    def drops(self, *, alpha: float = ALPHA) -> tuple[Drop, ...]:
        """Return significant decreases, for every larger share the clearest one.

        The probability of any false decrease is at most alpha (Holm over all pairs of shares).
        """
        pairs = [(i, j) for j in range(len(self.shares)) for i in range(j)]
        found = [self._describe(self._difference(j, i), 0.0) for i, j in pairs]
        adjusted = holm([one.tail_above(0.0) for one in found])
        clearest: dict[int, Drop] = {}
        for (i, j), one, p in zip(pairs, found, adjusted, strict=True):
            if p <= alpha and (j not in clearest or p < clearest[j].p_value):
                clearest[j] = Drop(
                    smaller=self.shares[i],
                    larger=self.shares[j],
                    difference=one.value,
                    p_value=float(p),
                )
        return tuple(clearest.values())

    def standard_errors(self) -> list[float]:
        """Return the standard error of the difference of every pair of shares."""
        pairs = [(i, j) for j in range(len(self.shares)) for i in range(j)]
        weights = [self._difference(i, j) for i, j in pairs]
        return [math.sqrt(max(0.0, float(w @ self._covariance_MM @ w))) for w in weights]

    def _others(self, share: int) -> list[int]:
        return [other for other in range(len(self.shares)) if other != share]

    def _difference(self, first: int, second: int) -> np.ndarray:
        weights_M = np.zeros(len(self._means_M))
        weights_M[first], weights_M[second] = 1.0, -1.0
        return weights_M

    def _describe(self, weights_M: np.ndarray, constant: float) -> Uncertainty:
        """Return what is known about a combination of rows plus a constant."""
        sizes_C = self._totals.sizes_C
        sums_1C = (weights_M @ self._totals.sums_MC + constant * sizes_C)[None]
        spread = ItemSpread.of(weights_M @ self._rows_MI)
        return analytic_mean(ClusterTotals(sums_MC=sums_1C, sizes_C=sizes_C), spread)


def _check(
    shares: Sequence[float],
    scores_SI: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    delta: float | RelativeMargin,
) -> None:
    if len(shares) < 2 or scores_SI.shape != (len(shares), len(clusters)):  # noqa: PLR2004
        raise DataError(
            f"{len(shares)} shares, scores of shape {scores_SI.shape}, {len(clusters)} clusters; "
            "expected at least two shares, one row each and one cluster per column"
        )
    if any(b <= a for a, b in itertools.pairwise(shares)):
        raise DataError(f"shares {list(shares)}; expected them in ascending order, each once")
    if isinstance(delta, RelativeMargin):
        shape = np.shape(delta.blind)
        if shape not in (scores_SI.shape, scores_SI.shape[1:]):
            raise DataError(
                f"blind scores of shape {shape} for scores of shape {scores_SI.shape}; expected "
                "one row per share, or one row for all"
            )
    elif not delta > 0:
        raise DataError(
            f"the margin delta is {delta}; expected a positive number such as 0.02 for 2 points"
        )
