"""Choice of the next cell of a sequential grid: the value of its measurement for open claims."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from evaluation.statistics.sequential.claims import ALL_VERDICTS, ContrastClaim

PREDICTION_LEVEL = 0.9
"""Level of the intervals that are registered before a cell is trained."""
_TIE = 1e-9
_EXPLAINED_WEIGHT = 0.05
_NUM_BINS = 16
"""Bins of the predicted value of a cell."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A cell that could be trained next."""

    point: int
    cost: float
    """GPU-hours that it would add."""
    reduction: float
    """Expected reduction of the sum of the claims' risks."""
    explained: float
    """Part of the variance of the hardest contrast of each open claim that the cell explains,
    summed over the claims."""
    is_required: bool
    """Whether a claim that is likely to be supported waits for a cell at this place."""
    mean: float
    """Prediction of the measured mean."""
    low: float
    """Lower end of the interval of `PREDICTION_LEVEL`."""
    high: float

    @property
    def value(self) -> float:
        """Expected reduction of risk per GPU-hour.

        The risk of a claim whose verdict is nearly certain hardly changes. The explained variance,
        with a small weight, then finds the cell that shows it.
        """
        return (self.reduction + _EXPLAINED_WEIGHT * self.explained) / max(self.cost, 1e-12)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenClaim:
    """Draws of the verdict and of the hardest contrast of a claim that is not closed."""

    verdicts_N: np.ndarray
    """Verdict of the complete grid in every draw, 0 to 2."""
    hardest_N: np.ndarray
    """The contrast that is the least certain to be positive."""

    @classmethod
    def of(cls, claim: ContrastClaim, values_NP: np.ndarray, verdicts_N: np.ndarray) -> "OpenClaim":
        """Find the hardest contrast of a claim in draws of the values."""
        contrasts_NK = values_NP @ claim.weights_KP.T + claim.margins_K
        ratios_K = contrasts_NK.mean(axis=0) / np.maximum(contrasts_NK.std(axis=0), _TIE)
        return cls(verdicts_N=verdicts_N, hardest_N=contrasts_NK[:, int(ratios_K.argmin())])


def rank_candidates(
    means_NP: np.ndarray,
    claims: Sequence[OpenClaim],
    costs: Mapping[int, float],
    required: Collection[int],
) -> list[Candidate]:
    """Return the cells that could be trained next, the best first.

    Args:
        means_NP: Draws of the means that would be measured.
        claims: The open claims in the same draws.
        costs: Point that may be trained -> GPU-hours that it would add.
        required: Points for which a claim waits; they come first.
    """
    free = list(costs)
    if not free:
        return []
    means_NU = means_NP[:, free]
    ranks = len(means_NP) * np.array([1 - PREDICTION_LEVEL, 1 + PREDICTION_LEVEL]) / 2
    low_U, high_U = np.sort(means_NU, axis=0)[ranks.astype(int)]
    reductions_U = np.sum([expected_reductions(means_NU, one.verdicts_N) for one in claims], axis=0)
    explained_U = np.sum([_explained(means_NU, one.hardest_N) for one in claims], axis=0)
    columns = zip(
        free, reductions_U, explained_U, means_NU.mean(axis=0), low_U, high_U, strict=True
    )
    found = [
        Candidate(
            point=point,
            cost=costs[point],
            reduction=float(reduction),
            explained=float(explained),
            is_required=point in required,
            mean=float(mean),
            low=float(low),
            high=float(high),
        )
        for point, reduction, explained, mean, low, high in columns
    ]
    return sorted(
        found, key=lambda one: (not one.is_required, -one.value, one.low - one.high, one.point)
    )


def _explained(means_NU: np.ndarray, values_N: np.ndarray) -> np.ndarray:
    """Return the squared correlation of each cell's mean with some values, shape (U,)."""
    apart_NU, apart_N = means_NU - means_NU.mean(axis=0), values_N - values_N.mean()
    scales_U = np.maximum((apart_NU**2).sum(axis=0) * (apart_N @ apart_N), _TIE**4)
    explained_U: np.ndarray = (apart_N @ apart_NU) ** 2 / scales_U
    return explained_U


def expected_reductions(means_NU: np.ndarray, verdicts_N: np.ndarray) -> np.ndarray:
    """Return by how much the value of each cell is expected to reduce the risk of a wrong verdict.

    The draws are ordered by the value and divided into bins; within each, the most frequent verdict
    is the best guess once the value is known (the partition estimator of the value of information,
    Strong and Oakley 2014).

    Args:
        means_NU: Draws of the values that would be measured; their number is a multiple of the
            number of bins.
        verdicts_N: Verdict of the complete grid in the same draws, 0 to 2.

    Returns:
        The reduction for every cell, shape (U,).
    """
    number, num_cells = means_NU.shape
    marked_NV = verdicts_N[:, None] == np.arange(len(ALL_VERDICTS))
    ordered_NUV = marked_NV[np.argsort(means_NU, axis=0)]
    counts_BUV = ordered_NUV.reshape(_NUM_BINS, -1, num_cells, len(ALL_VERDICTS)).sum(axis=1)
    after_U = counts_BUV.max(axis=2).sum(axis=0) / number
    reductions_U: np.ndarray = after_U - marked_NV.sum(axis=0).max() / number
    return reductions_U
