"""Complete runs of a sequential grid on known or simulated measurements."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from core.rng import named_rng
from evaluation.statistics.decisions import Verdict
from evaluation.statistics.sequential.study import SequentialStudy
from evaluation.statistics.surfaces.cell_surface import Observed

_MAX_DRAWS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StudyOutcome:
    """Trained cells and verdicts of a sequential grid."""

    trained: tuple[int, ...]
    """Trained points in their order."""
    verdicts: dict[str, Verdict]
    inside: tuple[bool, ...]
    """Whether the measurement of each predicted point was inside its interval."""


def run_study(
    study: SequentialStudy,
    means_P: np.ndarray,
    covariance_PP: np.ndarray,
    *,
    df: float,
    start: Sequence[int],
) -> StudyOutcome:
    """Run a sequential grid on measurements that are known beforehand.

    Args:
        study: The study.
        means_P: Measured mean of every point.
        covariance_PP: Their estimated covariance.
        df: Degrees of freedom of the covariance.
        start: Points that are trained first.
    """
    trained, closed, inside = list(start), dict[str, Verdict](), list[bool]()
    while True:
        observed = Observed(
            points=tuple(trained),
            means_T=means_P[trained],
            covariance_TT=covariance_PP[np.ix_(trained, trained)],
            df=df,
        )
        look = study.look(observed, closed=closed)
        closed = {one.name: one.closed for one in look.claims if one.closed is not None}
        if look.is_decided or not look.candidates:
            return StudyOutcome(trained=tuple(trained), verdicts=closed, inside=tuple(inside))
        chosen = look.candidates[0]
        inside.append(bool(chosen.low <= means_P[chosen.point] <= chosen.high))
        trained.append(chosen.point)


def forecast(
    study: SequentialStudy, covariance_PP: np.ndarray, *, df: float, number: int
) -> Iterator[StudyOutcome]:
    """Yield the outcomes of a study on surfaces that are drawn from its prior.

    Args:
        study: The study.
        covariance_PP: Expected covariance of the means over the items.
        df: Degrees of freedom of the covariance.
        number: Number of simulated grids.
    """
    rng = named_rng(study.seed, "sequential forecast")
    start = study.start(noise_variance=float(np.diagonal(covariance_PP).mean()))
    zeros_P = np.zeros(study.num_points)
    for _ in range(number):
        values_P = _draw_values(study, rng)
        means_P = values_P + rng.multivariate_normal(zeros_P, covariance_PP, method="cholesky")
        yield run_study(study, means_P, covariance_PP, df=df, start=start)


def _draw_values(study: SequentialStudy, rng: np.random.Generator) -> np.ndarray:
    """Return values from the prior that a score can have: all between 0 and twice the mean."""
    prior = study.prior
    roots_HPP = np.linalg.cholesky(prior.values + 1e-12 * np.eye(prior.num_points))
    values_P = np.full(prior.num_points, prior.mean)
    for _ in range(_MAX_DRAWS):
        root_PP = roots_HPP[rng.integers(len(roots_HPP))]
        values_P = prior.mean + root_PP @ rng.standard_normal(prior.num_points)
        if values_P.min() >= 0 and values_P.max() <= 2 * prior.mean:
            break
    return values_P


def equal_errors(num_points: int, variance: float, correlation: float) -> np.ndarray:
    """Return the covariance of means with equal variances and correlations, shape (P, P)."""
    covariance_PP: np.ndarray = variance * (
        correlation * np.ones((num_points, num_points)) + (1 - correlation) * np.eye(num_points)
    )
    return covariance_PP
