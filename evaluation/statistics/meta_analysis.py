"""Random-effects meta-analysis of estimates, with covariates and a prediction interval.

The true effect of a study is a linear function of its covariates plus a normal deviation with the
variance tau^2, which restricted maximum likelihood (REML) estimates. Standard errors are those of
Knapp and Hartung (2003) with t quantiles, which keep their level with few studies; they are never
below the usual ones (the modification of Rover, Knapp and Friede, 2015).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.small_samples import student_quantile

_MAX_STEPS, _TOLERANCE = 200, 1e-10
_GRID, _DRAWS = 400, 20_000
"""Values of tau^2 and draws for the prediction interval."""
MIN_STUDIES = 3
"""Studies below which no heterogeneity is estimated."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Coefficient:
    """An intercept or slope with its 95 % interval."""

    value: float
    standard_error: float
    low: float
    high: float
    df: int
    """Degrees of freedom of the t distribution."""

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the hypothesis that the true value is 0."""
        if not self.standard_error:
            return 1.0
        return float(2 * special.stdtr(self.df, -abs(self.value) / self.standard_error))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MetaAnalysis:
    """Result of a random-effects model."""

    num_studies: int
    coefficients: tuple[Coefficient, ...]
    """The mean, or the intercept and one slope per covariate."""
    tau: float
    """Standard deviation of true effects around the model."""
    q: float
    """Weighted sum of squared residuals without random effects (Cochran)."""
    q_p_value: float
    """p-value of the hypothesis that all deviations are errors of measurement."""
    i_squared: float
    """Part of the variance of the estimates, in 0..1, that is not an error of measurement."""
    prediction: tuple[float, float] | None
    """95 % interval of the true effect of a new study, without covariates; None with them."""

    @property
    def mean(self) -> Coefficient:
        """The mean effect, or the intercept."""
        return self.coefficients[0]


def random_effects(
    estimates: Sequence[float],
    standard_errors: Sequence[float],
    covariates: Sequence[Sequence[float]] = (),
) -> MetaAnalysis:
    """Fit a random-effects model by REML.

    Args:
        estimates: Estimate of every study.
        standard_errors: Its standard error.
        covariates: Values of every study, one sequence per covariate.

    Raises:
        DataError: If there are fewer than three studies or not more than coefficients, the lengths
            differ, a standard error is not positive, or covariates are linearly dependent.
    """
    y_K, v_K = np.asarray(estimates, float), np.asarray(standard_errors, float) ** 2
    x_KP = np.column_stack([np.ones(len(y_K)), *(np.asarray(c, float) for c in covariates)])
    num, size = x_KP.shape
    if num < MIN_STUDIES or num <= size or len(v_K) != num:
        raise DataError(
            f"{num} estimates, {len(v_K)} standard errors and {size} coefficients; at least "
            f"{MIN_STUDIES} estimates, and more than coefficients, are needed"
        )
    if not (v_K > 0).all() or np.linalg.matrix_rank(x_KP) < size:
        raise DataError(
            "a standard error is not positive, or covariates depend on each other; remove them"
        )
    tau2 = _reml(y_K, v_K, x_KP)
    beta_P, covariance_PP, residual = _fit_weighted(y_K, v_K + tau2, x_KP)
    df = num - size
    # Not below 1: fewer deviations than errors explain are chance.
    scale = max(1.0, residual / df)
    errors_P = np.sqrt(scale * np.diag(covariance_PP))
    reach = student_quantile(0.95, df)
    q = _fit_weighted(y_K, v_K, x_KP)[2]
    typical = _typical_variance(v_K, x_KP)
    return MetaAnalysis(
        num_studies=num,
        coefficients=tuple(
            Coefficient(value=float(b), standard_error=float(e), low=float(b - reach * e),
                        high=float(b + reach * e), df=df)
            for b, e in zip(beta_P, errors_P, strict=True)
        ),
        tau=math.sqrt(tau2),
        q=q,
        q_p_value=float(special.chdtrc(df, q)),
        i_squared=tau2 / (tau2 + typical),
        prediction=_predict(y_K, v_K) if size == 1 else None,
    )  # fmt: skip


def _predict(y_K: np.ndarray, v_K: np.ndarray) -> tuple[float, float]:
    """Return an interval after Nagashima, Noma and Furukawa (2019), for few studies as well.

    DEVIATION: the sum of squares has the weights of its own tau^2 instead of those without spread,
    and errors are not below those of measurement.

    A new effect is drawn many times: tau^2 from its confidence distribution (the value at which the
    weighted sum of squares equals a draw of chi-squared), then the mean given tau^2 with the error
    of Knapp and Hartung, then the deviation of the study.
    """
    num = len(y_K)
    spread = float(np.var(y_K, ddof=1))
    tau2_G = np.concatenate([[0.0], np.geomspace(1e-6, 1e4, _GRID) * (spread + v_K.mean())])
    weights_GK = 1 / (v_K + tau2_G[:, None])
    totals_G = weights_GK.sum(axis=1)
    means_G = weights_GK @ y_K / totals_G
    squares_G = (weights_GK * (y_K - means_G[:, None]) ** 2).sum(axis=1)
    rng = named_rng(0, "prediction interval")
    # The sum of squares falls as tau^2 grows; larger draws than that at zero stand for no spread.
    draws_R = rng.chisquare(num - 1, _DRAWS)
    tau2_R = np.interp(draws_R, squares_G[::-1], tau2_G[::-1])
    means_R, totals_R, squares_R = (np.interp(tau2_R, tau2_G, values_G)
                                    for values_G in (means_G, totals_G, squares_G))  # fmt: skip
    errors_R = np.sqrt(np.maximum(1.0, squares_R / (num - 1)) / totals_R)
    new_R = (means_R + errors_R * rng.standard_t(num - 1, _DRAWS)
             + np.sqrt(tau2_R) * rng.standard_normal(_DRAWS))  # fmt: skip
    low, high = np.quantile(new_R, [0.025, 0.975])
    return float(low), float(high)


def _fit_weighted(
    y_K: np.ndarray, variance_K: np.ndarray, x_KP: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return coefficients, their covariance and the weighted sum of squared residuals."""
    weighted_KP = x_KP / variance_K[:, None]
    covariance_PP = np.linalg.inv(x_KP.T @ weighted_KP)
    beta_P = covariance_PP @ (weighted_KP.T @ y_K)
    residuals_K = y_K - x_KP @ beta_P
    return beta_P, covariance_PP, float((residuals_K**2 / variance_K).sum())


def _reml(y_K: np.ndarray, v_K: np.ndarray, x_KP: np.ndarray) -> float:
    """Return the REML estimate of tau^2 by Fisher scoring, bounded at 0."""
    tau2 = max(0.0, float(np.var(y_K, ddof=1) - v_K.mean()))
    for _ in range(_MAX_STEPS):
        weights_K = 1 / (v_K + tau2)
        weighted_KP = x_KP * weights_K[:, None]
        inverse_PP = np.linalg.inv(x_KP.T @ weighted_KP)
        projection_KK = np.diag(weights_K) - weighted_KP @ inverse_PP @ weighted_KP.T
        projected_K = projection_KK @ y_K
        score = float(projected_K @ projected_K - np.trace(projection_KK))
        information = float((projection_KK * projection_KK.T).sum())
        updated = max(0.0, tau2 + score / information)
        if abs(updated - tau2) <= _TOLERANCE * (1 + tau2):
            return updated
        tau2 = updated
    return tau2


def _typical_variance(v_K: np.ndarray, x_KP: np.ndarray) -> float:
    """Return the typical error variance of Higgins and Thompson (2002), for I^2."""
    weights_K = 1 / v_K
    weighted_KP = x_KP * weights_K[:, None]
    inverse_PP = np.linalg.inv(x_KP.T @ weighted_KP)
    projection_KK = np.diag(weights_K) - weighted_KP @ inverse_PP @ weighted_KP.T
    num, size = x_KP.shape
    return float((num - size) / np.trace(projection_KK))
