"""A saturating curve of accuracy over shares, with a test of its fit."""

import dataclasses

import numpy as np

from evaluation.statistics.small_samples import quadratic_form_p_value

NUM_PARAMETERS = 3
_MIN_POINTS = NUM_PARAMETERS + 1
"""Number of shares from which the curve is over-determined, so that its fit can be tested."""
_SCALES_K = np.geomspace(0.02, 5.0, 200)
_LACK_OF_FIT_ALPHA = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SaturatingCurve:
    """The curve start + rise * (1 - exp(-share / scale)) through the accuracies of some shares."""

    shares: tuple[float, ...]
    """Shares that the fit used."""
    start: float
    rise: float
    scale: float
    p_lack_of_fit: float
    """p-value of the hypothesis that the true accuracies lie on such a curve."""
    gains: tuple[tuple[float, float, float], ...]
    """Gain of ten more points of share at every share used, with its 95 % interval."""

    @property
    def is_adequate(self) -> bool:
        """Return whether the data agree with the shape of the curve."""
        return self.p_lack_of_fit > _LACK_OF_FIT_ALPHA


def fit_curve(
    shares_S: np.ndarray,
    means_S: np.ndarray,
    covariance_SS: np.ndarray,
    means_RS: np.ndarray,
    *,
    num_clusters: int,
) -> SaturatingCurve | None:
    """Fit the curve by generalised least squares.

    The accuracies of all shares come from the same items and are correlated; weighting by their
    covariance makes the fit efficient and its residual sum of squares a test of the shape. For a
    given scale the curve is linear, so the best scale of a grid is found for all resamples at once.

    Args:
        shares_S: Shares in ascending order.
        means_S: Accuracy at every share.
        covariance_SS: Cluster-robust covariance of the accuracies.
        means_RS: Resampled accuracies, to which the curve is fitted again for the intervals.
        num_clusters: Number of images.

    Returns:
        The fit, or None with fewer than four shares, or if the covariance is singular, as with two
        equal rows of scores.
    """
    df = len(shares_S) - NUM_PARAMETERS
    singular = np.linalg.matrix_rank(covariance_SS, hermitian=True) < len(shares_S)
    if len(shares_S) < _MIN_POINTS or singular or num_clusters <= len(shares_S):
        return None
    weights_SS = np.linalg.inv(covariance_SS)
    own, squares = _fit_rows(shares_S, means_S[None], weights_SS)
    refits, _ = _fit_rows(shares_S, means_RS, weights_SS)
    gains_RS = _evaluate(refits, shares_S + 0.1) - _evaluate(refits, shares_S)
    gain_S = (_evaluate(own, shares_S + 0.1) - _evaluate(own, shares_S))[0]
    lows_S, highs_S = np.quantile(gains_RS, [0.025, 0.975], axis=0)
    start, rise, scale = own[0]
    return SaturatingCurve(
        shares=tuple(float(share) for share in shares_S),
        start=float(start),
        rise=float(rise),
        scale=float(scale),
        p_lack_of_fit=quadratic_form_p_value(float(squares[0]), df, num_clusters),
        gains=tuple(
            (float(g), float(a), float(b)) for g, a, b in zip(gain_S, lows_S, highs_S, strict=True)
        ),
    )


def _evaluate(parameters_R3: np.ndarray, shares_S: np.ndarray) -> np.ndarray:
    start_R1, rise_R1, scale_R1 = (parameters_R3[:, [i]] for i in range(NUM_PARAMETERS))
    values_RS: np.ndarray = start_R1 + rise_R1 * (1 - np.exp(-shares_S / scale_R1))
    return values_RS


def _fit_rows(
    shares_S: np.ndarray, means_RS: np.ndarray, weights_SS: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the parameters of every row, shape (R, 3), and the weighted sums of squares, (R,)."""
    best_R = np.full(len(means_RS), np.inf)
    parameters_R3 = np.zeros((len(means_RS), NUM_PARAMETERS))
    for scale in _SCALES_K:
        design_S2 = np.stack([np.ones_like(shares_S), 1 - np.exp(-shares_S / scale)], axis=1)
        weighted_2S = design_S2.T @ weights_SS
        linear_R2 = means_RS @ np.linalg.solve(weighted_2S @ design_S2, weighted_2S).T
        residuals_RS = means_RS - linear_R2 @ design_S2.T
        squares_R = np.einsum("rs,rs->r", residuals_RS @ weights_SS, residuals_RS)
        better_R = squares_R < best_R
        best_R[better_R] = squares_R[better_R]
        parameters_R3[better_R, :2] = linear_R2[better_R]
        parameters_R3[better_R, 2] = scale
    return parameters_R3, best_R
