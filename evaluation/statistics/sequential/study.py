"""A sequential grid: decide claims as soon as the remaining cells would hardly change them.

After every training the response surface predicts the cells that are missing, and with them the
verdict of every claim if the grid were completed. A claim is closed early if

* the verdict of the complete grid is nearly certain: its predictive probability is above
  `CERTAINTIES` (stochastic curtailment, Lan, Simon and Halperin 1982),
* for a verdict other than "undecided", the p-value under the surface is below the level (of a claim
  about a mean difference: its part for one of the looks before the grid is complete), and
* for the support of a claim about the best of several cells, every place of these on the numeric
  axes has a trained cell, because no surface foresees a peak at a place without one.

Comparisons of trained cells alone do not use the surface: a verdict that they imply is certain. The
surface's assumptions concern the missing cells only, and the verdict of a complete grid is that of
a paired test, at `COMPLETE_SHARE` of the level; the rest is for verdicts before.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from functools import cached_property

import numpy as np

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.decisions import ALPHA, Verdict
from evaluation.statistics.sequential.choice import Candidate, OpenClaim, rank_candidates
from evaluation.statistics.sequential.claims import (
    ALL_VERDICTS,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    ContrastClaim,
)
from evaluation.statistics.sequential.item_errors import ItemErrors
from evaluation.statistics.surfaces.axes import CellAxes
from evaluation.statistics.surfaces.cell_surface import (
    WIDE_RISES,
    Observed,
    SurfacePosterior,
    SurfacePrior,
    fit_surface,
)
from evaluation.statistics.surfaces.design import v_optimal

COMPLETE_SHARE = 0.9
"""Part of a claim's level at which a complete grid decides it."""
CERTAINTIES = (0.95, 0.97)
"""Predictive probabilities of the complete grid's verdict above which a claim about the best of
several cells, and one about a mean difference, are closed. The probability of the first jumps with
every cell and is mostly higher when the claim is closed; that of the second hardly is."""
_START_SHARE = 1 / 6
_MIN_START = 2
_LIKELY = 0.5
_NUM_DRAWS = 512

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

    axes: CellAxes
    """Places of the trainings of the complete grid."""
    claims: tuple[ContrastClaim, ...]
    costs: Costs
    num_start: int = 0
    """Number of points that are trained before the first look; 0 for a sixth, at least two."""
    alpha: float = ALPHA
    """Level of all claims together (Bonferroni)."""
    certainties: tuple[float, float] = CERTAINTIES
    """See `CERTAINTIES`; with 1, claims are closed by their own cells only."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.claims:
            raise DataError("a sequential grid needs at least one claim to decide")
        if self.num_start and not _MIN_START <= self.num_start <= self.num_points:
            raise DataError(
                f"a start set of {self.num_start} of {self.num_points} points; expected at least "
                f"{_MIN_START}"
            )

    @property
    def num_points(self) -> int:
        """Number of trainings of the complete grid."""
        return self.axes.num_points

    @cached_property
    def prior(self) -> SurfacePrior:
        """The surface before any training."""
        return SurfacePrior.of(self.axes, rises=WIDE_RISES)

    @property
    def claim_alpha(self) -> float:
        """Level of one claim."""
        return self.alpha / len(self.claims)

    @property
    def last_alpha(self) -> float:
        """Level of one claim when the grid is complete."""
        return self.claim_alpha * COMPLETE_SHARE

    @property
    def early_alpha(self) -> float:
        """Level of a claim about a mean difference at one look before the grid is complete."""
        return self.claim_alpha * (1 - COMPLETE_SHARE) / self.num_points

    def start(self, *, noise_variance: float) -> list[int]:
        """Return the points to train first: those that tell most about the claims' contrasts.

        Every claim counts alike, and so does every contrast of a claim, relative to its variance
        before any training (a Bayesian V-optimal design). The points are at different places on the
        numeric axes, as far as there are.

        Args:
            noise_variance: Expected variance of the mean of one training over the items.
        """
        values_PP = self.prior.values.mean(axis=0)
        values_PP -= values_PP.min()  # the common level, which any cell reveals
        is_zero_P = np.any([np.zeros(self.num_points), *self.axes.zeros.values()], axis=0)
        rows = list[np.ndarray]()
        for claim in self.claims:
            weights_KP = claim.weights_KP
            # A regime at exactly zero varies most, and is rarely the best.
            with_zero_K = np.any(weights_KP[:, is_zero_P] != 0, axis=1)
            if claim.is_about_best and not with_zero_K.all():
                weights_KP = weights_KP[~with_zero_K]
            variances_K = ((weights_KP @ values_PP) * weights_KP).sum(axis=1)
            rows.append(weights_KP / np.sqrt(variances_K * len(variances_K))[:, None])
        number = self.num_start or max(_MIN_START, math.ceil(self.num_points * _START_SHARE))
        return v_optimal(
            values_PP,
            min(number, self.num_points),
            noise_variance=noise_variance,
            weights_KP=np.concatenate(rows),
            places_P=self.axes.places,
        )

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
        states, open_claims, required = list[ClaimState](), list[OpenClaim](), set[int]()
        for claim in self.claims:
            verdicts_N = claim.verdicts(
                means_NP, errors.covariance_PP, observed.df, self.last_alpha
            )
            p_values = self._p_values(claim, posterior, observed, errors)
            state = self._state(claim, observed, verdicts_N, p_values)
            if before := (closed or {}).get(claim.name):
                state = dataclasses.replace(state, closed=before)
            states.append(state)
            if state.closed is None:
                open_claims.append(OpenClaim.of(claim, values_NP, verdicts_N))
                if state.forecast[Verdict.SUPPORTED] > _LIKELY:
                    required |= self._unseen(claim, observed.points)
        candidates = list[Candidate]()
        if open_claims and not is_complete:
            costs = {p: self.costs(p, observed.points) for p in range(self.num_points)
                     if p not in observed.points}  # fmt: skip
            costs = {point: cost for point, cost in costs.items() if cost <= affordable}
            candidates = rank_candidates(means_NP, open_claims, costs, required)
        return Look(claims=tuple(states), candidates=tuple(candidates), is_complete=is_complete)

    def _state(
        self,
        claim: ContrastClaim,
        observed: Observed,
        verdicts_N: np.ndarray,
        p_values: tuple[float, float],
    ) -> ClaimState:
        """Return the state of a claim that no earlier look has closed."""
        counts_V = np.bincount(verdicts_N, minlength=len(ALL_VERDICTS)) / len(verdicts_N)
        likely = int(counts_V.argmax())
        is_last = not set(claim.points) - set(observed.points)
        alpha = self.last_alpha if is_last or claim.is_about_best else self.early_alpha
        supported, refuted = (p_value <= alpha for p_value in p_values)
        is_shown = {SUPPORTED: supported, REFUTED: refuted, UNDECIDED: True}[likely]
        if is_last:
            likely = SUPPORTED if supported else REFUTED if refuted else UNDECIDED
            is_closed = True
        else:
            is_closed = bool(counts_V[likely] > self.certainties[not claim.is_about_best])
            is_closed = is_closed and is_shown
            is_closed = is_closed and not (
                likely == SUPPORTED and self._unseen(claim, observed.points)
            )
        return ClaimState(
            name=claim.name,
            p_supported=p_values[0],
            p_refuted=p_values[1],
            forecast=dict(zip(ALL_VERDICTS, map(float, counts_V), strict=True)),
            closed=ALL_VERDICTS[likely] if is_closed else None,
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

    def _unseen(self, claim: ContrastClaim, trained: Collection[int]) -> set[int]:
        """Return the points at places of a claim's compared cells that have no trained point."""
        if not claim.is_about_best:
            return set()
        places_P = self.axes.places
        compared = {int(place) for place in places_P[np.any(claim.weights_KP < 0, axis=0)]}
        compared -= {int(places_P[point]) for point in trained}
        return {point for point, place in enumerate(places_P) if int(place) in compared}
