"""Losses of data mixtures predicted from few runs, with intervals.

A mixture is a point of the simplex: the shares of D domains. A mixing law says that a loss falls
with the shares, and above all with that of the domain that it is about, at a rate that depends on
how much of it there is. The logarithm of a loss is therefore a Gaussian process whose covariance is
a sum of four parts: functions of the domain's own share (its logarithm, blurred at three scales,
and itself), the logarithms of all shares, a smooth deviation, and noise. The sizes of these
parts relative to each other are unknown: predictions are averaged over a grid of sizes, weighted by
their marginal likelihood (Bayesian model averaging). The mean has a flat prior, and the overall
variance its conjugate one, so that predictions have t distributions, which are wide after few runs.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from scipy import special

from core.errors import DataError
from evaluation.statistics.surfaces.design import v_optimal

_LEAST_SHARE = 0.01
"""Added to shares before the logarithm: without data, a domain differs little from 1 %."""
_OWN_LEAST_SHARES = (0.001, 0.01, 0.1)
_LOGARITHMS, _OWN, _SMOOTH, _NOISE = (0.01, 0.1), (1.0, 10.0), (0.03, 0.3), (0.003, 0.03)
"""Sizes of the parts relative to each other."""
_SMOOTH_LENGTH = 0.6
_DESIGN_LINEAR, _DESIGN_SMOOTH, _DESIGN_LENGTH, _DESIGN_NOISE = 0.3, 0.1, 1.0, 0.05
_MIN_RUNS = 4
_SUM_TOLERANCE = 0.02
_MIN_WEIGHT = 1e-4
_BISECTIONS = 50


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MixturePredictions:
    """Predictions of M losses: mixtures of H t distributions of their logarithms."""

    weights_H: np.ndarray
    means_HM: np.ndarray
    scales_HM: np.ndarray
    df: float

    @property
    def losses(self) -> np.ndarray:
        """Expected losses (geometric means), shape (M,)."""
        losses: np.ndarray = np.exp(self.weights_H @ self.means_HM)
        return losses

    def levels(self, losses_M: np.ndarray) -> np.ndarray:
        """Return the predicted probabilities of smaller losses in new runs, shape (M,)."""
        return self._levels(np.log(losses_M))

    def intervals(self, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the central intervals of new runs, by bisection, shape (M,) each."""
        ends = []
        for level in ((1 - confidence) / 2, (1 + confidence) / 2):
            reach = special.stdtrit(self.df, max(level, 1 - level)) + 1
            low_M = (self.means_HM - reach * self.scales_HM).min(axis=0)
            high_M = (self.means_HM + reach * self.scales_HM).max(axis=0)
            for _ in range(_BISECTIONS):
                middle_M = (low_M + high_M) / 2
                is_below_M = self._levels(middle_M) < level
                low_M = np.where(is_below_M, middle_M, low_M)
                high_M = np.where(is_below_M, high_M, middle_M)
            ends.append(np.exp((low_M + high_M) / 2))
        return ends[0], ends[1]

    def _levels(self, logs_M: np.ndarray) -> np.ndarray:
        ratios_HM = (logs_M - self.means_HM) / self.scales_HM
        return np.asarray(self.weights_H @ special.stdtr(self.df, ratios_HM))


def choose_mixtures(shares_ND: np.ndarray, number: int) -> list[int]:
    """Return the indices of mixtures whose runs leave the least mean variance over all candidates.

    Args:
        shares_ND: Shares of the candidates.
        number: Number of mixtures to train.

    Raises:
        DataError: If the shares are none, or there are fewer candidates.
    """
    _check_shares(shares_ND)
    logs_ND = _logarithms(shares_ND, _LEAST_SHARE)
    kernel_NN = _DESIGN_LINEAR * shares_ND @ shares_ND.T + logs_ND @ logs_ND.T
    kernel_NN += _DESIGN_SMOOTH * _smooth(logs_ND, logs_ND, _DESIGN_LENGTH)
    return v_optimal(kernel_NN, number, noise_variance=_DESIGN_NOISE)


def predict_losses(
    shares_ND: np.ndarray, losses_N: np.ndarray, new_MD: np.ndarray, *, own: int | None = None
) -> MixturePredictions:
    """Predict the losses of new runs from those of finished ones.

    Args:
        shares_ND: Shares of the finished runs.
        losses_N: Their losses, positive.
        new_MD: Shares of the new runs.
        own: Column of the domain that the loss is about; None if no domain is.

    Raises:
        DataError: If the shares are none, a loss is not positive, there are fewer than four runs,
            or the numbers differ.
    """
    _check_shares(shares_ND)
    _check_shares(new_MD)
    if len(losses_N) < _MIN_RUNS or len(losses_N) != len(shares_ND) or losses_N.min() <= 0:
        raise DataError(
            f"{len(shares_ND)} mixtures and {len(losses_N)} losses; expected one positive loss "
            f"each, of at least {_MIN_RUNS} runs"
        )
    fits = list(_fits(_Parts(shares_ND, shares_ND, own), _Parts(new_MD, shares_ND, own),
                      _part_variances(new_MD, own), np.log(losses_N)))  # fmt: skip
    log_H = np.array([log for log, _, _ in fits])
    weights_H = np.exp(log_H - log_H.max())
    kept_H = weights_H > _MIN_WEIGHT
    return MixturePredictions(
        weights_H=weights_H[kept_H] / weights_H[kept_H].sum(),
        means_HM=np.array([means_M for _, means_M, _ in fits])[kept_H],
        scales_HM=np.array([scales_M for _, _, scales_M in fits])[kept_H],
        df=len(losses_N) - 1.0,
    )


class _Parts:
    """Parts of the prior covariance between two sets of mixtures, without noise."""

    def __init__(self, first_AD: np.ndarray, second_BD: np.ndarray, own: int | None) -> None:
        logs_AD, logs_BD = (_logarithms(x, _LEAST_SHARE) for x in (first_AD, second_BD))
        self.logarithms = logs_AD @ logs_BD.T
        self.own = _own_features(first_AD, own) @ _own_features(second_BD, own).T
        self.smooth = _smooth(logs_AD, logs_BD, _SMOOTH_LENGTH)

    def add(self, logarithms: float, own: float, smooth: float) -> np.ndarray:
        """Return the covariance for some sizes of the parts."""
        total: np.ndarray = logarithms * self.logarithms + own * self.own + smooth * self.smooth
        return total


def _part_variances(shares_MD: np.ndarray, own: int | None) -> tuple[np.ndarray, ...]:
    """Return the variance of each part for every mixture."""
    logs_MD = _logarithms(shares_MD, _LEAST_SHARE)
    own_MF = _own_features(shares_MD, own)
    return (logs_MD**2).sum(axis=1), (own_MF**2).sum(axis=1), np.ones(len(shares_MD))


def _fits(
    known: _Parts, crossed: _Parts, variances: tuple[np.ndarray, ...], values_N: np.ndarray
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Yield log marginal likelihood, means and scales of the predictions for all sizes."""
    number = len(values_N)
    ones_N = np.ones(number)
    for *sizes, noise in itertools.product(_LOGARITHMS, _OWN, _SMOOTH, _NOISE):
        covariance_NN = known.add(*sizes) + noise * np.eye(number)
        crossed_MN = crossed.add(*sizes)
        inverse_NN = np.linalg.inv(covariance_NN)
        # The flat prior of the mean: generalised least squares.
        weight = float(ones_N @ inverse_NN @ ones_N)
        mean = float(ones_N @ inverse_NN @ values_N) / weight
        apart_N = values_N - mean
        square = float(apart_N @ inverse_NN @ apart_N)
        log_det = float(np.linalg.slogdet(covariance_NN)[1])
        log = -(log_det + np.log(weight) + (number - 1) * np.log(max(square, 1e-300))) / 2
        means_M = mean + crossed_MN @ (inverse_NN @ apart_N)
        left_M = 1 - crossed_MN @ inverse_NN @ ones_N
        explained_M = ((crossed_MN @ inverse_NN) * crossed_MN).sum(axis=1)
        own_M = sum(size * part_M for size, part_M in zip(sizes, variances, strict=True)) + noise
        spread_M = np.maximum(own_M - explained_M + left_M**2 / weight, 1e-12)
        yield float(log), means_M, np.sqrt(spread_M * max(square, 1e-300) / (number - 1))


def _logarithms(shares_ND: np.ndarray, least: float) -> np.ndarray:
    """Return the logarithms of shares, scaled to 0 without data and 1 for nothing else."""
    logs: np.ndarray = np.log1p(shares_ND / least) / np.log1p(1 / least)
    return logs


def _own_features(shares_ND: np.ndarray, own: int | None) -> np.ndarray:
    """Return functions of the share of the loss's own domain; zeros if it has none."""
    if own is None:
        return np.zeros((len(shares_ND), 1))
    shares_N = shares_ND[:, own]
    logs = [_logarithms(shares_N, least) for least in _OWN_LEAST_SHARES]
    return np.stack([*logs, shares_N], axis=1)


def _smooth(first_AD: np.ndarray, second_BD: np.ndarray, length: float) -> np.ndarray:
    squares_AB = ((first_AD[:, None] - second_BD) ** 2).sum(axis=-1)
    smooth: np.ndarray = np.exp(-squares_AB / (2 * length**2))
    return smooth


def _check_shares(shares_ND: np.ndarray) -> None:
    is_table = shares_ND.ndim == 2 and len(shares_ND) > 0  # noqa: PLR2004
    if not is_table or shares_ND.min() < 0 or abs(shares_ND.sum(1) - 1).max() > _SUM_TOLERANCE:
        raise DataError(
            f"shares of shape {shares_ND.shape}; expected a table whose rows are at least 0 and "
            "add up to 1"
        )
