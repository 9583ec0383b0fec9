"""A sequential grid: decide claims as soon as the remaining cells would hardly change them.

After every training the response surface predicts the cells that are missing, and with them the
verdict of every claim if the grid were completed. A claim is closed early if

* the verdict of the complete grid is nearly certain (its predictive probability is at least
  `certainty`; stochastic curtailment, Lan, Simon and Halperin 1982), and
* for a verdict other than "undecided", the p-value under the surface is below the level that the
  claim may spend at this look.

The level of a claim is divided between the looks: `EARLY_SHARE` of it equally between all looks
before the last one, the rest is kept for the complete grid. By the union bound, the probability of
a wrong verdict over all looks is at most the level, whatever the dependence between the looks.
Comparisons of trained cells alone do not use the surface, so its assumptions concern the missing
cells only, and the verdict of a complete grid is that of a paired test.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.decisions import ALPHA, Verdict
from evaluation.statistics.sequential.claims import (
    ALL_VERDICTS,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    ContrastClaim,
)
from evaluation.statistics.sequential.item_errors import ItemErrors
from evaluation.statistics.surfaces.cell_surface import (
    Observed,
    SurfacePosterior,
    SurfacePrior,
    fit_surface,
)
from evaluation.statistics.surfaces.design import d_optimal

EARLY_SHARE = 0.1
"""Part of a claim's level that is spent before the grid is complete."""
CERTAINTY = 0.93
"""Predictive probability of the complete grid's verdict at which a claim is closed."""
PREDICTION_LEVEL = 0.9
"""Level of the intervals that are registered before a cell is trained."""
_TIE = 1e-9
_NUM_DRAWS = 1024
_EXPLAINED_WEIGHT = 0.05
_NUM_BINS = 16
"""Bins of the predicted value of a cell; each has 64 draws."""

Costs = Callable[[int, Collection[int]], float]
"""GPU-hours that a point adds to trained ones, with which it may share stage runs."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClaimState:
    """State of one claim, given the trained cells."""

    name: str
    p_supported: float
    """p-value of "the claim is false", predicted cells included."""
    p_refuted: float
    forecast: Mapping[Verdict, float]
    """Predictive probability of every verdict of the complete grid."""
    closed: Verdict | None
    """The verdict, if the claim can be closed; otherwise None."""

    @property
    def risk(self) -> float:
        """Probability that the complete grid would decide otherwise than is likely now."""
        return 1.0 - max(self.forecast.values())


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
    mean: float
    """Prediction of the measured mean."""
    low: float
    """Lower end of the interval of `PREDICTION_LEVEL`."""
    high: float

    @property
    def value(self) -> float:
        """Expected reduction of risk per GPU-hour.

        The risk of a claim whose verdict is nearly certain, but not yet shown, hardly changes. The
        explained variance, with a small weight, then finds the cell that shows it.
        """
        return (self.reduction + _EXPLAINED_WEIGHT * self.explained) / max(self.cost, 1e-12)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """State of a sequential grid after some trainings."""

    claims: tuple[ClaimState, ...]
    candidates: tuple[Candidate, ...]
    """Points that are not trained, the best first; empty if all claims are closed."""
    is_complete: bool
    """Whether every point is trained."""

    @property
    def is_decided(self) -> bool:
        """Return whether no claim is open."""
        return all(claim.closed is not None for claim in self.claims)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialStudy:
    """The fixed part of a sequential grid."""

    prior: SurfacePrior
    claims: tuple[ContrastClaim, ...]
    costs: Costs
    num_start: int
    """Number of points that are trained before the first look."""
    alpha: float = ALPHA
    """Level of all claims together (Bonferroni)."""
    certainty: float = CERTAINTY
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.claims:
            raise DataError("a sequential grid needs at least one claim to decide")
        if not 2 <= self.num_start <= self.num_points:  # noqa: PLR2004
            raise DataError(
                f"a start set of {self.num_start} of {self.num_points} points; expected at least 2"
            )

    @property
    def num_points(self) -> int:
        """Number of trainings of the complete grid."""
        return self.prior.num_points

    @property
    def claim_alpha(self) -> float:
        """Level of one claim."""
        return self.alpha / len(self.claims)

    @property
    def early_alpha(self) -> float:
        """Level of one claim at one look before the grid is complete."""
        return self.claim_alpha * EARLY_SHARE / max(1, self.num_points - self.num_start)

    @property
    def last_alpha(self) -> float:
        """Level of one claim when the grid is complete."""
        return self.claim_alpha * (1 - EARLY_SHARE)

    def start(self, *, noise_variance: float, given: Sequence[int] = ()) -> list[int]:
        """Return the D-optimal set of points to train first.

        Args:
            noise_variance: Expected variance of the mean of one training over the items.
            given: Points that are trained already.
        """
        covariance_PP = self.prior.functions_HPP.mean(axis=0)
        values_P, vectors_PP = np.linalg.eigh(covariance_PP)
        features_PP = vectors_PP * np.sqrt(np.maximum(values_P, 0.0))
        noise = noise_variance + float(self.prior.training_H.mean())
        number = max(self.num_start, len(given))
        return d_optimal(features_PP, number, noise_variance=noise, given=given)

    def look(
        self,
        observed: Observed,
        *,
        closed: Mapping[str, Verdict] | None = None,
        affordable: float = math.inf,
    ) -> Look:
        """Return what the trained points decide, and which point to train next.

        Args:
            observed: Means of the trained points.
            closed: Verdicts of earlier looks, which are final.
            affordable: GPU-hours that are left; dearer points are no candidates.
        """
        posterior = fit_surface(self.prior, observed)
        errors = ItemErrors.of(observed, self.num_points)
        is_complete = len(observed.points) == self.num_points
        rng = named_rng(self.seed, "sequential look", *observed.points)
        values_NP = posterior.draw(rng, _NUM_DRAWS)
        means_NP = errors.draw_means(values_NP, rng)
        states, verdicts = [], {}
        for claim in self.claims:
            found_N = claim.verdicts(means_NP, errors.covariance_PP, observed.df, self.last_alpha)
            verdicts[claim.name] = found_N
            before = (closed or {}).get(claim.name)
            states.append(self._state(claim, posterior, observed, errors, found_N, before))
        is_open = [state.name for state in states if state.closed is None]
        candidates = list[Candidate]()
        if is_open and not is_complete:
            draws = [
                (verdicts[claim.name], _hardest(claim, values_NP))
                for claim in self.claims
                if claim.name in is_open
            ]
            candidates = self._candidates(observed, means_NP, draws, affordable)
        return Look(claims=tuple(states), candidates=tuple(candidates), is_complete=is_complete)

    def _state(
        self,
        claim: ContrastClaim,
        posterior: SurfacePosterior,
        observed: Observed,
        errors: ItemErrors,
        verdicts_N: np.ndarray,
        before: Verdict | None,
    ) -> ClaimState:
        p_supported, p_refuted = self._p_values(claim, posterior, observed, errors)
        counts_V = np.bincount(verdicts_N, minlength=len(ALL_VERDICTS)) / len(verdicts_N)
        is_last = not set(claim.points) - set(observed.points)
        alpha = self.last_alpha if is_last else self.early_alpha
        likely = int(counts_V.argmax())
        supported, refuted = p_supported <= alpha, p_refuted <= alpha
        closed = before
        if before is None and is_last:
            closed = ALL_VERDICTS[SUPPORTED if supported else REFUTED if refuted else UNDECIDED]
        elif before is None and counts_V[likely] >= self.certainty:
            is_shown = {SUPPORTED: supported, REFUTED: refuted, UNDECIDED: True}[likely]
            closed = ALL_VERDICTS[likely] if is_shown else None
        return ClaimState(
            name=claim.name,
            p_supported=p_supported,
            p_refuted=p_refuted,
            forecast=dict(zip(ALL_VERDICTS, map(float, counts_V), strict=True)),
            closed=closed,
        )

    def _p_values(
        self,
        claim: ContrastClaim,
        posterior: SurfacePosterior,
        observed: Observed,
        errors: ItemErrors,
    ) -> tuple[float, float]:
        """Return the p-values of a claim; only contrasts with a missing cell use the surface."""
        is_missing_P = np.isnan(errors.means_P)
        uses_surface_K = np.any(claim.weights_KP[:, is_missing_P] != 0, axis=1)
        means_1P = np.nan_to_num(errors.means_P)[None]
        seen_K = claim.tails_below(means_1P, errors.covariance_PP, observed.df)[0]
        predicted_K = posterior.tail_below(claim.weights_KP, -claim.margins_K, observed.df)
        below_K = np.where(uses_surface_K, predicted_K, seen_K)
        return float(below_K.max()), float(claim.p_refuted(1 - below_K[None])[0])

    def _candidates(
        self,
        observed: Observed,
        means_NP: np.ndarray,
        draws: Sequence[tuple[np.ndarray, np.ndarray]],
        affordable: float,
    ) -> list[Candidate]:
        costs = {p: self.costs(p, observed.points) for p in range(self.num_points)}
        free = [p for p in costs if p not in observed.points and costs[p] <= affordable]
        if not free:
            return []
        sorted_NU = np.sort(means_NP[:, free], axis=0)
        ranks = len(means_NP) * np.array([1 - PREDICTION_LEVEL, 1 + PREDICTION_LEVEL]) / 2
        low_U, high_U = sorted_NU[ranks.astype(int)]
        means_NU = means_NP[:, free]
        reductions_U = np.sum([expected_reductions(means_NU, one_N) for one_N, _ in draws], axis=0)
        explained_U = np.sum([_explained(means_NU, hard_N) for _, hard_N in draws], axis=0)
        found = [
            Candidate(
                point=point,
                cost=costs[point],
                reduction=float(reduction),
                explained=float(explained),
                mean=float(mean),
                low=float(low),
                high=float(high),
            )
            for point, reduction, explained, mean, low, high in zip(
                free,
                reductions_U,
                explained_U, sorted_NU.mean(axis=0), low_U, high_U,
                strict=True,
            )
        ]  # fmt: skip
        return sorted(found, key=lambda one: (-one.value, -(one.high - one.low), one.point))


def _hardest(claim: ContrastClaim, values_NP: np.ndarray) -> np.ndarray:
    """Return draws of the contrast that is the least certain to be positive, shape (N,)."""
    contrasts_NK = values_NP @ claim.weights_KP.T + claim.margins_K
    ratios_K = contrasts_NK.mean(axis=0) / np.maximum(contrasts_NK.std(axis=0), _TIE)
    hardest_N: np.ndarray = contrasts_NK[:, int(ratios_K.argmin())]
    return hardest_N


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
