"""Variance of a mean difference of pairs of recipes, over images and trainings."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from core.errors import DataError
from evaluation.statistics.claim_tests import StudentDifference
from evaluation.statistics.decisions import explain_few_clusters
from evaluation.statistics.resampling import total_clusters
from evaluation.statistics.small_samples import clustered_covariance, degrees_of_freedom
from evaluation.statistics.trainings.training_variance import (
    MIN_TRAINING_DF,
    SeedScores,
    TrainingVariance,
    difference_df,
)
from evaluation.statistics.uncertainty import MIN_CLUSTERS

_TIE = 1e-9
"""Standard error below which there is no spread but rounding."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingWeights:
    """Weights of trainings in a mean difference: each cell has one, spread over its seeds."""

    weights: tuple[float, ...]
    """Weight of every cell, positive for first and negative for second cells."""
    seeds: tuple[tuple[int, ...], ...]
    """Seeds of every cell."""

    def coefficients(self, more_seeds: int = 0) -> tuple[float, float]:
        """Return the factors of the training variance in the variance of the difference.

        Args:
            more_seeds: Additional trainings of every cell, with the same new seeds in all.

        Returns:
            The factor of independent shifts, which is the sum of squared weights of trainings, and
            the excess over it if all cells share the shift of a seed. The excess is positive only
            if cells of several pairs differ in their seeds.
        """
        return _find_coefficients(self.weights, self.seeds, more_seeds)


@functools.lru_cache(maxsize=1024)
def _find_coefficients(
    weights: tuple[float, ...], seeds: tuple[tuple[int, ...], ...], more_seeds: int
) -> tuple[float, float]:
    """Return the factors of `TrainingWeights`; planning asks for the same ones many times."""
    own, per_seed = 0.0, dict[int, float]()
    unused = 1 + max(max(of_cell) for of_cell in seeds)
    extra = range(unused, unused + more_seeds)
    for weight, of_cell in zip(weights, seeds, strict=True):
        share = weight / (len(of_cell) + more_seeds)
        own += weight * share
        for seed in (*of_cell, *extra):
            per_seed[seed] = per_seed.get(seed, 0.0) + share
    return own, max(0.0, sum(total**2 for total in per_seed.values()) - own)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RecipeSpread:
    """A mean difference, less a margin, and what its variance consists of."""

    value: float
    image_variance: float
    """Variance over images for these trained models."""
    image_df: float
    num_clusters: int
    weights: TrainingWeights

    def estimate(
        self, variance: TrainingVariance, *, more_seeds: int = 0, growth: float = 1.0
    ) -> StudentDifference:
        """Return the distribution of the mean for other images and trainings.

        Args:
            variance: Training variance of the grid.
            more_seeds: Additional trainings of every cell, to plan with.
            growth: Factor by which the number of images grows, to plan with.
        """
        own, excess = self.weights.coefficients(more_seeds)
        noise_now = self.weights.coefficients()[0] * variance.noise
        systematic = max(0.0, self.image_variance - noise_now) / growth
        noise = variance.noise / growth
        # Planned trainings and images follow the expectation, not the observed mean square.
        is_planned = more_seeds > 0 or growth != 1
        between = variance.variance + noise if is_planned else variance.between
        training = own * between + excess * max(0.0, between - noise)
        total = systematic + training
        training_df = variance.df + more_seeds * len(self.weights.weights)
        share = training / total if total > 0 else 0.0
        return StudentDifference(
            value=self.value,
            standard_error=math.sqrt(total),
            df=difference_df(share, training_df, self.image_df * growth),
        )

    @property
    def of_models(self) -> StudentDifference:
        """The distribution of the mean for other images and the same trained models."""
        return StudentDifference(
            value=self.value,
            standard_error=math.sqrt(self.image_variance),
            df=self.image_df,
        )

    def why_undecidable(self, variance: TrainingVariance | None) -> str:
        """Return why there is no interval over images and trainings, or an empty string."""
        if self.num_clusters < MIN_CLUSTERS:
            return explain_few_clusters(self.num_clusters)
        if variance is None:
            return (
                "every cell was trained with one seed, so nothing is known about other trainings; "
                "train at least two cells with several seeds"
            )
        if variance.df < MIN_TRAINING_DF:
            return (
                "one repeated training does not show how trainings vary; train another cell or "
                "another seed"
            )
        if self.image_variance < _TIE**2:
            return "the difference is the same everywhere, so the spread is unknown"
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipePairs:
    """Pairs of cells whose mean difference is estimated. Pairs may share cells."""

    first: Sequence[SeedScores]
    second: Sequence[SeedScores]

    def __post_init__(self) -> None:
        """Check that the cells form pairs with the same items.

        Raises:
            DataError: If the numbers of cells or their items differ.
        """
        if not self.first or len(self.first) != len(self.second):
            raise DataError(
                f"{len(self.first)} first and {len(self.second)} second cells; expected at least "
                "one pair"
            )
        for cell in (*self.first, *self.second):
            if not np.array_equal(cell.clusters, self.clusters):
                raise DataError(
                    f"cells with {len(self.clusters)} and {len(cell.clusters)} items, or of other "
                    "images; expected scores of the same items in the same order"
                )

    @property
    def clusters(self) -> np.ndarray:
        """Image of every item."""
        return self.first[0].clusters

    @functools.cached_property
    def mean_second(self) -> np.ndarray:
        """Mean score of every item over the second cells, shape (I,)."""
        return _mean_scores(self.second)

    @functools.cached_property
    def differences(self) -> np.ndarray:
        """Mean difference of every item over the pairs, shape (I,)."""
        differences_I: np.ndarray = _mean_scores(self.first) - self.mean_second
        return differences_I

    @functools.cached_property
    def weights(self) -> TrainingWeights:
        """Weights of all distinct cells that were trained."""
        cells: list[SeedScores] = []
        weights: list[float] = []
        for sign, side in ((1, self.first), (-1, self.second)):
            for cell in side:
                if not cell.is_trained:
                    continue
                place = next((at for at, known in enumerate(cells) if _is_same(cell, known)), None)
                if place is None:
                    cells.append(cell)
                    weights.append(0.0)
                weights[-1 if place is None else place] += sign / len(side)
        return TrainingWeights(weights=tuple(weights), seeds=tuple(cell.seeds for cell in cells))

    def spread(self, margins_I: np.ndarray | float = 0.0) -> RecipeSpread:
        """Return the spread of the mean difference minus a margin per item."""
        totals = total_clusters(self.differences - margins_I, self.clusters)
        return RecipeSpread(
            value=float(totals.means[0]),
            image_variance=float(clustered_covariance(totals)[0, 0]),
            image_df=degrees_of_freedom(totals.sizes_C),
            num_clusters=totals.num_clusters,
            weights=self.weights,
        )


def _mean_scores(cells: Sequence[SeedScores]) -> np.ndarray:
    means_I: np.ndarray = np.mean([cell.scores_KI.mean(axis=0) for cell in cells], axis=0)
    return means_I


def _is_same(cell: SeedScores, other: SeedScores) -> bool:
    """Return whether two objects hold the same cell, so that its training shift counts once."""
    if cell is other:
        return True
    return cell.seeds == other.seeds and np.array_equal(cell.scores_KI, other.scores_KI)
