"""Response surface over the cells of a grid, fitted to paired scores by generalised least squares.

The value of a training is a smooth function of the axes plus an independent shift of the training.
The function is a data mixing law (Ye et al. 2024): along each numeric axis, a saturating
exponential with an unknown scale. It is completed by a drop towards the upper end, a regime of its
own at exactly zero (a model that never saw the language answers in another one), and a smooth
deviation, because no law is exact. Every part is linear in its amplitude, and amplitudes have
normal distributions, so that for given scales and sizes the fit is a generalised least squares
problem with a closed form. Scales and sizes are averaged over a grid of values, each weighted by
its marginal likelihood (Bayesian model averaging).

The means of all cells come from the same items. Their cluster-robust covariance enters the fit, so
what the cells have in common does not count as evidence about their differences.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy import special

from core.errors import DataError
from evaluation.statistics.surfaces.axes import CellAxes

_LEVEL_SD = 1.0
_GROUP_SD = 0.05
_ZERO_SD = 0.3
_SAME_CURVE = 0.9
"""Prior correlation of the curves of two groups."""
_SMOOTH_LENGTH = 0.25
_DROP_START = 0.5
_SCALES = (0.06, 0.15, 0.4, 1.5)
"""Scales of the saturating exponential, as fractions of the axis."""
_RISES = (0.02, 0.08, 0.25)
WIDE_RISES = (0.02, 0.1, 0.5)
"""Standard deviations of a curve's rise before most of its cells are trained; on grids whose
language model knows no word of the target language, curves rise by up to 50 points."""
_DEVIATIONS = (0.005, 0.02)
_DROP_RATIO = 2.0
"""Prior standard deviation of the drop relative to that of the deviation."""
_TRAINING_SDS = (0.004, 0.014)
"""Standard deviations of a training's shift; on the embedded profile about 1 point."""
_MIN_WEIGHT = 1e-4
"""Smallest weight of a hypothesis, relative to the largest; the others are left out."""
_MAX_SEPARATE_SCALES = 2
"""Number of numeric axes up to which each has a scale of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePrior:
    """H hypotheses about the scales and sizes of a surface over P points, equally likely before."""

    functions_HPP: np.ndarray
    """Prior covariance of the function."""
    training_H: np.ndarray
    """Variance of the shift of a training."""
    mean: float
    """Prior mean of all points, with a standard deviation of 1."""
    is_recipe_P: np.ndarray | None = None
    """Whether a point stands for the mean over trainings, not for one; None for no point."""

    @property
    def num_points(self) -> int:
        """Number of points."""
        return len(self.functions_HPP[0])

    @cached_property
    def values(self) -> np.ndarray:
        """Prior covariance of the values of the trainings."""
        is_training_P = np.ones(self.num_points)
        if self.is_recipe_P is not None:
            is_training_P[self.is_recipe_P] = 0.0
        shifts_HPP = self.training_H[:, None, None] * np.diag(is_training_P)
        values: np.ndarray = self.functions_HPP + shifts_HPP
        return values

    @classmethod
    def of(
        cls,
        axes: CellAxes,
        *,
        mean: float = 0.5,
        scale: float = 1.0,
        rises: Sequence[float] = _RISES,
    ) -> "SurfacePrior":
        """Return the prior for the cells of a grid.

        Args:
            axes: Places of the points.
            mean: Prior mean of the values.
            scale: Unit of the values relative to a fraction of accuracy.
            rises: Standard deviations of the rise of a curve, one per hypothesis.
        """
        separate = len(axes.curves) if len(axes.curves) <= _MAX_SEPARATE_SCALES else 1
        functions, trainings = [], []
        sizes = (rises, _DEVIATIONS, _TRAINING_SDS)
        for lengths in itertools.product(_SCALES, repeat=separate):
            for rise, deviation, shift in itertools.product(*sizes):
                functions.append(_function(axes, lengths, rise, deviation))
                trainings.append(shift**2)
        square = scale**2
        return cls(
            functions_HPP=np.array(functions) * square,
            training_H=np.array(trainings) * square,
            mean=mean * scale,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observed:
    """Means of T trained points over the same items."""

    points: tuple[int, ...]
    """Indices of the trained points."""
    means_T: np.ndarray
    covariance_TT: np.ndarray
    """Cluster-robust covariance of the means."""
    df: float
    """Degrees of freedom of the covariance."""

    def __post_init__(self) -> None:
        """Check the shapes."""
        number = len(self.points)
        if not number or len(set(self.points)) != number:
            raise DataError(f"points {self.points}; expected at least one, each once")
        if self.means_T.shape != (number,) or self.covariance_TT.shape != (number, number):
            raise DataError(
                f"{number} points, means of shape {self.means_T.shape}, a covariance of shape "
                f"{self.covariance_TT.shape}; expected ({number},) and ({number}, {number})"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePosterior:
    """Mixture of H normal distributions of the values of P trainings."""

    weights_H: np.ndarray
    means_HP: np.ndarray
    covariances_HPP: np.ndarray
    log_evidence: float
    """Logarithm of the marginal likelihood of the observed means."""

    @cached_property
    def mean(self) -> np.ndarray:
        """Expected values."""
        mean: np.ndarray = self.weights_H @ self.means_HP
        return mean

    @cached_property
    def covariance(self) -> np.ndarray:
        """Covariance of the values over all hypotheses."""
        apart_HP = self.means_HP - self.mean
        within = np.einsum("h,hpq->pq", self.weights_H, self.covariances_HPP)
        covariance: np.ndarray = within + (self.weights_H * apart_HP.T) @ apart_HP
        return covariance

    def tail_below(self, weights_KP: np.ndarray, limits_K: np.ndarray, df: float) -> np.ndarray:
        """Return the probabilities that K combinations of values are below their limits, (K,)."""
        means_HK, sds_HK = self._combine(weights_KP)
        below_HK = special.stdtr(df, (limits_K - means_HK) / sds_HK)
        return np.asarray(self.weights_H @ below_HK)

    def interval(
        self, weights_P: np.ndarray, confidence: float, *, extra_variance: float = 0.0
    ) -> tuple[float, float]:
        """Return the central interval of a combination of values, by bisection.

        Args:
            weights_P: The combination.
            confidence: Level of the interval.
            extra_variance: Variance of an independent error that is added to the combination.
        """
        means_HK, sds_HK = self._combine(weights_P[None])
        means_H, sds_H = means_HK[:, 0], np.hypot(sds_HK[:, 0], np.sqrt(extra_variance))
        return mixture_interval(self.weights_H, means_H, sds_H, confidence)

    def draw(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Return draws of the values, ordered by hypothesis, shape (number, P)."""
        counts_H = rng.multinomial(number, self.weights_H)
        used = np.flatnonzero(counts_H)
        roots_UPP = _roots(self.covariances_HPP[used])
        noise_NP = rng.standard_normal((number, self.means_HP.shape[1]))
        parts = np.split(noise_NP, np.cumsum(counts_H[used])[:-1])
        return np.concatenate([
            self.means_HP[at] + part_NP @ root_PP.T
            for at, part_NP, root_PP in zip(used, parts, roots_UPP, strict=True)
        ])  # fmt: skip

    def _combine(self, weights_KP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means_HK = self.means_HP @ weights_KP.T
        spread_HKP = weights_KP @ self.covariances_HPP
        variances_HK = np.einsum("hkp,kp->hk", spread_HKP, weights_KP)
        return means_HK, np.sqrt(np.maximum(variances_HK, 1e-18))


def mixture_interval(
    weights_H: np.ndarray, means_H: np.ndarray, sds_H: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Return the central interval of a mixture of normal distributions, by bisection."""
    ends = []
    for level in ((1 - confidence) / 2, (1 + confidence) / 2):
        low, high = (means_H - 12 * sds_H).min(), (means_H + 12 * sds_H).max()
        for _ in range(60):
            middle = (low + high) / 2
            is_below = float(weights_H @ special.ndtr((middle - means_H) / sds_H)) < level
            low, high = (middle, high) if is_below else (low, middle)
        ends.append(float((low + high) / 2))
    return ends[0], ends[1]


def fit_surface(prior: SurfacePrior, observed: Observed) -> SurfacePosterior:
    """Fit a surface to the means of the trained points.

    Args:
        prior: Hypotheses about the surface.
        observed: Means of the trained points and their covariance.

    Raises:
        DataError: If the covariance is not that of a distribution.
    """
    at = list(observed.points)
    values_HPP = prior.values
    total_HTT = values_HPP[:, at][:, :, at] + observed.covariance_TT
    try:
        roots_HTT = np.linalg.cholesky(total_HTT)
    except np.linalg.LinAlgError as error:
        raise DataError("the covariance of the observed means is not positive") from error
    apart_T = observed.means_T - prior.mean
    solved_HT = np.linalg.solve(roots_HTT, np.broadcast_to(apart_T, total_HTT.shape[:2])[..., None])
    log_det_H = 2 * np.log(np.diagonal(roots_HTT, axis1=1, axis2=2)).sum(axis=1)
    log_H = -0.5 * (log_det_H + (solved_HT[..., 0] ** 2).sum(axis=1))
    top = log_H.max()
    weights_H = np.exp(log_H - top)
    kept = np.flatnonzero(weights_H >= _MIN_WEIGHT)
    half_HTP = np.linalg.solve(roots_HTT[kept], values_HPP[kept][:, at])
    means_HP = prior.mean + (half_HTP * solved_HT[kept]).sum(axis=1)
    covariances_HPP = values_HPP[kept] - half_HTP.transpose(0, 2, 1) @ half_HTP
    return SurfacePosterior(
        weights_H=weights_H[kept] / weights_H[kept].sum(),
        means_HP=means_HP,
        covariances_HPP=covariances_HPP,
        log_evidence=float(top + np.log(weights_H.mean()) - len(at) * np.log(2 * np.pi) / 2),
    )


def _function(
    axes: CellAxes, lengths: tuple[float, ...], rise: float, deviation: float
) -> np.ndarray:
    """Return the prior covariance of the function for one hypothesis."""
    number = axes.num_points
    total_PP = np.full((number, number), _LEVEL_SD**2)
    same_PP = np.ones((number, number))
    for index_P in axes.groups.values():
        is_same_PP = index_P[:, None] == index_P
        total_PP += _GROUP_SD**2 * is_same_PP
        same_PP *= _SAME_CURVE + (1 - _SAME_CURVE) * is_same_PP
    smooth_PP = np.ones((number, number))
    for at, (name, place_P) in enumerate(axes.curves.items()):
        scale = lengths[min(at, len(lengths) - 1)]
        law_P = -np.expm1(-place_P / scale) / -np.expm1(-1 / scale)
        drop_P = np.maximum(0.0, (place_P - _DROP_START) / (1 - _DROP_START))
        curve_PP = rise**2 * np.outer(law_P, law_P)
        curve_PP += (_DROP_RATIO * deviation) ** 2 * np.outer(drop_P, drop_P)
        if name in axes.zeros:
            curve_PP += _ZERO_SD**2 * np.outer(axes.zeros[name], axes.zeros[name])
        total_PP += curve_PP * same_PP
        smooth_PP *= np.exp(-(((place_P[:, None] - place_P) / _SMOOTH_LENGTH) ** 2) / 2)
    total_PP += deviation**2 * smooth_PP * same_PP
    return total_PP


def _roots(covariances_HPP: np.ndarray) -> np.ndarray:
    """Return the lower square roots of covariances; those of trained points are nearly singular."""
    size = covariances_HPP.shape[-1]
    traces_H = np.trace(covariances_HPP, axis1=1, axis2=2) / size
    jitter_HPP = (1e-9 * traces_H + 1e-15)[:, None, None] * np.eye(size)
    roots: np.ndarray = np.linalg.cholesky(covariances_HPP + jitter_HPP)
    return roots
