"""Variances that a power calculation assumes: defaults, or measured on a finished grid."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from core.errors import DataError
from evaluation.statistics.trainings.recipe_spread import RecipePairs
from evaluation.statistics.trainings.training_variance import SeedScores, training_variance

SD_ITEM_DIFFERENCE = 0.51
"""Standard deviation of the difference of two cells on one question. Measured on the grid
mix_ablation of the profile `embedded`: median of the 45 pairs of its cells with a share above 0,
official accuracy on 1,000 Basque questions (0.43 to 0.58; multiple choice 0.50, yes or no 0.60)."""
INTRA_IMAGE_CORRELATION = 0.065
"""Correlation of these differences between questions of one image: median of the same pairs (0.01
to 0.19), 373 images."""
NOISE_SHARE = 0.77
"""Part of the variance of these differences that changes with every training. Measured on three
trainings each of the cells with 20 and 100 % (`measure_assumptions`, Basque VQA; multiple choice
0.98, yes or no 0.92)."""
TRAINING_SD = 0.016
"""Standard deviation of the shift of a whole training. Measured on the same six trainings: Basque
VQA 36.4, 38.4, 36.8 % and 58.7, 53.3, 56.2 %, moment estimate 1.6 points with four degrees of
freedom (multiple choice and yes or no 0; answer type number 4.1)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PowerAssumptions:
    """Variances of a planned comparison; the names are those of `ClaimPlan`."""

    sd_item_difference: float = SD_ITEM_DIFFERENCE
    intra_image_correlation: float = INTRA_IMAGE_CORRELATION
    noise_share: float = NOISE_SHARE
    training_sd: float = TRAINING_SD


def measure_assumptions(cells: Sequence[SeedScores]) -> PowerAssumptions:
    """Measure the assumptions on the cells of a finished grid.

    Values per pair of cells are medians over all pairs. The training variance and the part of the
    noise come from replicated cells; without any, their defaults are used.

    Args:
        cells: At least two cells with scores of the same items.

    Raises:
        DataError: If there are fewer than two cells, or their items differ.
    """
    if len(cells) < 2:  # noqa: PLR2004
        raise DataError(f"{len(cells)} cells; differences between cells need at least two")
    singles = [
        SeedScores(seeds=cell.seeds[:1], scores_KI=cell.scores_KI[:1], clusters=cell.clusters)
        for cell in cells
    ]
    pairs = [RecipePairs(first=[a], second=[b]) for a, b in itertools.combinations(singles, 2)]
    measured = [_measure_pair(pair.differences, pair.clusters) for pair in pairs]
    sd, correlation = np.median(measured, axis=0)
    variance = training_variance(cells)
    if variance is None:
        return PowerAssumptions(
            sd_item_difference=float(sd), intra_image_correlation=float(correlation)
        )
    image_variance = float(np.median([pair.spread().image_variance for pair in pairs]))
    noise_share = 2 * variance.noise / image_variance if image_variance else 1.0
    return PowerAssumptions(
        sd_item_difference=float(sd),
        intra_image_correlation=float(correlation),
        noise_share=min(1.0, noise_share),
        training_sd=variance.sd,
    )


def _measure_pair(differences_I: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Return the standard deviation of differences and their correlation within an image."""
    residuals_I = differences_I - differences_I.mean()
    _, codes_I, sizes_C = np.unique(clusters, return_inverse=True, return_counts=True)
    num_pairs = float((sizes_C * (sizes_C - 1)).sum())
    squares = float((residuals_I**2).sum())
    if not num_pairs or not squares:
        return float(residuals_I.std()), 0.0
    sums_C = np.bincount(codes_I, weights=residuals_I)
    covariance = float((sums_C**2).sum() - squares) / num_pairs
    return float(residuals_I.std()), covariance / (squares / len(residuals_I))
