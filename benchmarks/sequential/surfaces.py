"""True surfaces of simulated grids, from families that the fitted surface does not contain."""

import dataclasses
from collections.abc import Sequence

import numpy as np

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TEXTS = (False, True)
_DROP_FROM = 0.5
_TRAINING_SDS = (0.003, 0.006, 0.012)
_LITTLE = 1e-6


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
    return _with_trainings(_draw_functions(rng), rng)


def draw_values_of_three_trainings(rng: np.random.Generator) -> np.ndarray:
    """Return true values of three trainings of each of the twelve cells, shape (36,)."""
    return _with_trainings(np.repeat(_draw_functions(rng), 3), rng)


def draw_values_of_two_backbones(rng: np.random.Generator) -> np.ndarray:
    """Return true values of twelve cells of each of two language models, shape (24,).

    The second language model is better by up to 5 points, more at small shares or alike.
    """
    values_P = _draw_functions(rng)
    effect, fade = rng.choice([0.0, 0.0, 0.02, 0.05]), rng.choice([0.0, 1.5])
    better_P = effect * np.exp(-fade * np.array(SHARES * 2))
    return _with_trainings(np.concatenate([values_P, values_P + better_P]), rng)


def _draw_functions(rng: np.random.Generator) -> np.ndarray:
    """Return the values that twelve cells have on average over trainings."""
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
    return np.concatenate([base_S, base_S + effect * np.exp(-fade * shares_S)])


def draw_tuning_values(rng: np.random.Generator) -> np.ndarray:
    """Return true values of twelve cells from other families than `draw_values`, shape (12,).

    The settings of sequential grids were chosen on these: curves with random increments, Gompertz
    curves, parabolas and broken lines; text-only data may also do harm.
    """
    shares_S = np.array(SHARES)
    top, rise = rng.uniform(0.2, 0.75), rng.choice([0.01, 0.04, 0.1, 0.25])
    knot = rng.uniform(0.1, 0.7)
    increments = rng.dirichlet(np.full(len(SHARES) - 1, rng.choice([0.4, 1.0, 4.0])))
    curves = (
        np.concatenate([[0.0], np.cumsum(increments)]),
        np.exp(-rng.uniform(1, 5) * np.exp(-rng.uniform(1.5, 10) * shares_S)),
        -((shares_S - rng.uniform(0.3, 1.1)) ** 2),
        np.minimum(shares_S / knot, 1) + rng.uniform(-0.2, 0.5) * np.maximum(0, shares_S - knot),
    )
    curve_S = curves[rng.integers(len(curves))]
    curve_S = (curve_S - curve_S.max()) / max(np.ptp(curve_S), 1e-9)
    base_S = top + rise * curve_S - rng.choice([0.0, 0.0, 0.1, 0.25]) * (shares_S == 0)
    effect_S = rng.choice([-0.02, 0.0, 0.0, 0.015, 0.04]) * (1 - rng.choice([0.0, 0.8]) * shares_S)
    return _with_trainings(np.concatenate([base_S, base_S + effect_S]), rng)


def draw_values_at_the_limit(rng: np.random.Generator) -> np.ndarray:
    """Return true values of twelve cells of which a share of 20 % is just too low, shape (12,).

    In both settings it keeps a little less than 90 % of the best: the least favourable case for a
    wrong support.
    """
    curves = (
        [0.3, 0.9, 1, 1, 1, 1],
        [0.5, 0.9, 0.94, 0.97, 0.99, 1],
        [0.8, 0.9, 0.95, 1, 0.95, 0.9],
    )
    functions_P = np.tile(rng.uniform(0.3, 0.7) * np.array(curves[rng.integers(len(curves))]), 2)
    values_TS = _with_trainings(functions_P, rng).reshape(len(TEXTS), len(SHARES))
    values_TS[:, 1] = (0.9 - _LITTLE) * np.delete(values_TS, 1, axis=1).max(axis=1)
    return values_TS.reshape(-1)


def draw_values_without_effect(rng: np.random.Generator) -> np.ndarray:
    """Return true values of twelve cells in which text-only data do not help, shape (12,).

    Their mean effect on the trained models is a little below 0: the least favourable case for the
    claim that they help.
    """
    values_TS = draw_values(rng).reshape(len(TEXTS), len(SHARES))
    values_TS[1] -= (values_TS[1] - values_TS[0]).mean() + _LITTLE
    return values_TS.reshape(-1)


def draw_peaked_values(rng: np.random.Generator) -> np.ndarray:
    """Return true values with a peak of 8 points at one share, which no smooth surface foresees."""
    return _draw_peak(rng, settings=TEXTS)


def draw_values_with_one_peak(rng: np.random.Generator) -> np.ndarray:
    """Return true values with a peak of 8 points in one cell, without or with text-only data."""
    return _draw_peak(rng, settings=[bool(rng.integers(2))])


def _draw_peak(rng: np.random.Generator, settings: Sequence[bool]) -> np.ndarray:
    values_TS = np.tile([0.3, 0.5, 0.5, 0.5, 0.5, 0.5], (len(TEXTS), 1))
    values_TS[[int(text) for text in settings], rng.integers(2, len(SHARES))] += 0.08
    return values_TS.reshape(-1) + 0.006 * rng.standard_normal(values_TS.size)


def _with_trainings(functions_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the shift of every training."""
    spread = rng.choice(_TRAINING_SDS)
    shifted: np.ndarray = functions_P + spread * rng.standard_normal(len(functions_P))
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
