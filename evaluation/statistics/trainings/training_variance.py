"""Variance between trainings of one recipe, pooled over the cells that were trained several times.

The score of item i of image c in training k of cell s is modelled as

    cell s  +  training (s, k)  +  image (s, c)  +  noise (s, k, i),

where the noise of items of one image may be correlated. Images are crossed with cells and
trainings. The scores of one cell that was trained K times give two mean squares:

* `between`: the variance of the K mean scores. Its expectation is the training variance plus the
  variance that the noise alone gives a mean score.
* `noise`: the second of these, from the residuals of items that remain after the means of the item
  and of the training are removed, clustered by image.

Their difference estimates the training variance. With equal K this is the REML estimate, except
that REML sets a negative difference to zero. Nothing is set to zero here: a positive bias at small
training variances would make intervals too wide (`benchmarks/recipe_simulation.py`).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from core.errors import DataError
from evaluation.statistics.resampling import total_clusters
from evaluation.statistics.small_samples import clustered_covariance

MIN_TRAINING_DF = 2
"""Degrees of freedom of the training variance from which a claim about recipes is decided. With
one (a single cell with two trainings), nominal 95 % intervals cover 93.5 to 98.3 % and are
too wide to decide anything."""

_EXPONENT_DF = 3.0
"""Constant of the exponent in `difference_df`. It was chosen by numerical integration over the
possible ratios of training, noise and image variance: from two degrees of freedom on, nominal 95 %
intervals cover 94.6 to 96.9 %, and 94.6 to 95.9 % where the noise of items is at least 70 % of the
image variance, as it is in measured grids."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeedScores:
    """Scores of all trainings of one cell on the same items."""

    seeds: tuple[int, ...]
    """Seed of every training. The same number in two cells means the same order of data and the
    same initial weights."""
    scores_KI: np.ndarray
    """Score of every training (rows) on every item (columns)."""
    clusters: np.ndarray
    """Image of every item."""
    is_trained: bool = True
    """Whether other trainings would give other scores; not so for a model before training."""

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            DataError: If the shapes do not match, a seed occurs twice, or there is no item.
        """
        expected = (len(self.seeds), len(self.clusters))
        if np.shape(self.scores_KI) != expected or not all(expected):
            raise DataError(
                f"{len(self.seeds)} seeds, {len(self.clusters)} clusters and scores of shape "
                f"{np.shape(self.scores_KI)}; expected one row per seed and one column per item"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise DataError(f"a seed occurs twice in one cell: {self.seeds}; remove a training")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingVariance:
    """Mean squares of replicated cells, pooled with their degrees of freedom as weights.

    Pooling assumes that the training variance is the same in every cell, including those that were
    trained once.
    """

    between: float
    """Variance of mean scores between trainings of one cell, noise of the items included."""
    noise: float
    """Part of `between` that the noise of the items explains."""
    df: int
    """Degrees of freedom of `between`: trainings minus cells."""
    num_cells: int
    """Number of replicated cells."""

    @property
    def variance(self) -> float:
        """Training variance, at least 0."""
        return max(0.0, self.between - self.noise)

    @property
    def sd(self) -> float:
        """Standard deviation of the shift of a whole training, in units of the score."""
        return math.sqrt(self.variance)


def training_variance(cells: Sequence[SeedScores]) -> TrainingVariance | None:
    """Estimate the training variance from all replicated cells of a grid.

    Args:
        cells: Cells of the grid, each once. Cells with one training are ignored.

    Returns:
        The pooled mean squares, or None if no cell was trained more than once.
    """
    replicated = [cell for cell in cells if len(cell.seeds) > 1]
    if not replicated:
        return None
    df = sum(len(cell.seeds) - 1 for cell in replicated)
    squares = np.array([_sums_of_squares(cell) for cell in replicated])
    between, noise = squares.sum(axis=0) / df
    return TrainingVariance(
        between=float(between), noise=float(noise), df=df, num_cells=len(replicated)
    )


def difference_df(training_share: float, training_df: float, image_df: float) -> float:
    """Return degrees of freedom of the variance of a difference.

    Satterthwaite's formula is 1 / (share^2 / training_df + (1 - share)^2 / image_df), where the
    share is the part of the variance that is estimated from few trainings. The estimated share
    varies with the variance itself, and with 2 to 4 degrees of freedom the formula is too
    optimistic (92 % instead of 95 %). A smaller exponent, 2 f / (f + 3) for f degrees of freedom,
    corrects this and agrees with Satterthwaite for many trainings.

    Args:
        training_share: Part of the variance that comes from the mean square between trainings.
        training_df: Degrees of freedom of that mean square.
        image_df: Degrees of freedom of the variance between images.
    """
    exponent = 2 * training_df / (training_df + _EXPONENT_DF)
    training_part: float = training_share**exponent / training_df
    return 1 / (training_part + (1 - training_share) ** 2 / image_df)


def _sums_of_squares(cell: SeedScores) -> tuple[float, float]:
    """Return both mean squares of a cell times its degrees of freedom."""
    scores_KI = np.asarray(cell.scores_KI, dtype=np.float64)
    means_K = scores_KI.mean(axis=1)
    shifts_K = means_K - means_K.mean()
    residuals_KI = scores_KI - scores_KI.mean(axis=0) - shifts_K[:, None]
    covariance_KK = clustered_covariance(total_clusters(residuals_KI, cell.clusters))
    return float(shifts_K @ shifts_K), float(np.trace(covariance_KK))
