"""True surfaces of simulated grids, from families that the fitted surface does not contain."""

import dataclasses

import numpy as np

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TEXTS = (False, True)
_DROP_FROM = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Benchmark:
    """A benchmark as its statistics see it."""

    num_clusters: int
    """Number of images."""
    error: float
    """Standard error of the mean of one cell."""
    correlation: float
    """Correlation of the errors of two cells."""


def axes() -> list[dict[str, float | bool]]:
    """Return the axes of the twelve cells of `mix_ablation`, in its order."""
    return [{"text_only": text, "target_share": share} for text in TEXTS for share in SHARES]


def draw_values(rng: np.random.Generator) -> np.ndarray:
    """Return the true values of the twelve trained cells, shape (12,).

    The curve over shares is a Hill curve, a power law, a logistic curve or a step; it may drop at
    its end. A share of 0 may be another regime. Text-only data shift the curve, more at small
    shares or alike, and every training has a shift of its own.
    """
    shares_S = np.array(SHARES)
    top, rise = rng.uniform(0.25, 0.7), rng.choice([0.01, 0.05, 0.15, 0.3])
    half = rng.uniform(0.02, 0.6)
    power = rng.uniform(0.8, 3.0)
    curves = (
        shares_S**power / (shares_S**power + half**power),
        shares_S ** rng.uniform(0.15, 1.2),
        1 / (1 + np.exp(-(shares_S - half) / rng.uniform(0.05, 0.25))),
        (shares_S >= rng.choice([0.1, 0.3])).astype(float),
    )
    curve_S = curves[rng.integers(len(curves))]
    curve_S = (curve_S - curve_S.max()) / max(np.ptp(curve_S), 1e-9)
    drop_S = np.maximum(0.0, (shares_S - _DROP_FROM) / (1 - _DROP_FROM))
    drop = rng.choice([0.0, 0.0, 0.02, 0.06])
    regime = rng.choice([0.0, 0.15, 0.3]) * (shares_S == 0)
    base_S = top + rise * curve_S - drop * drop_S - regime
    effect = rng.choice([0.0, 0.0, 0.02, 0.05])
    fade = rng.choice([0.0, 1.5])
    text_S = base_S + effect * np.exp(-fade * shares_S)
    values_P = np.concatenate([base_S, text_S])
    spread = rng.choice([0.003, 0.006, 0.012])
    shifted: np.ndarray = values_P + spread * rng.standard_normal(len(values_P))
    return shifted


def draw_peaked_values(rng: np.random.Generator) -> np.ndarray:
    """Return true values with a peak of 8 points at 40 %, which no smooth surface foresees."""
    values_P = np.array([0.3, 0.5, 0.58, 0.5, 0.5, 0.5] * 2)
    shifted: np.ndarray = values_P + 0.006 * rng.standard_normal(len(values_P))
    return shifted


def draw_observations(
    rng: np.random.Generator, values_P: np.ndarray, benchmark: Benchmark
) -> tuple[np.ndarray, np.ndarray]:
    """Return the measured means (P,) and their estimated covariance (P, P).

    The errors are normal, and the estimate of their covariance has a Wishart distribution with one
    degree of freedom less than there are images.
    """
    number = len(values_P)
    rho = benchmark.correlation
    root = np.linalg.cholesky(rho * np.ones((number, number)) + (1 - rho) * np.eye(number))
    means_P = values_P + benchmark.error * root @ rng.standard_normal(number)
    df = benchmark.num_clusters - 1
    # Bartlett's decomposition of a Wishart matrix.
    lower = np.tril(rng.standard_normal((number, number)), -1)
    lower[np.diag_indices(number)] = np.sqrt(rng.chisquare(df - np.arange(number)))
    half = benchmark.error * root @ lower / np.sqrt(df)
    return means_P, half @ half.T
