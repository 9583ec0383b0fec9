"""Designed sets of cells to train first: D-optimal or V-optimal in a Bayesian sense.

A set of cells is D-optimal if it leaves the least generalised variance (the determinant of the
covariance) of the coefficients. With prior variances the criterion exists for fewer cells than
coefficients (Chaloner and Verdinelli 1995). Cells are added one by one, each the most informative
given the others, and then exchanged while that improves the set (Fedorov 1972).

A set is V-optimal (or I-optimal) if it leaves the least mean variance of predictions; here of every
cell, or of some contrasts between cells.
"""

from collections.abc import Collection, Sequence

import numpy as np

from core.errors import DataError

_MIN_GAIN = 1e-9


def d_optimal(
    features_PF: np.ndarray,
    number: int,
    *,
    noise_variance: float,
    given: Sequence[int] = (),
    candidates: Collection[int] | None = None,
) -> list[int]:
    """Return a D-optimal set of points, in the order in which they were found.

    Args:
        features_PF: Features of every point, scaled so that each coefficient has a prior variance
            of 1.
        number: Number of points of the set, those given included.
        noise_variance: Variance of one observation.
        given: Points that are part of the set.
        candidates: Points to choose from; None for all.

    Raises:
        DataError: If there are fewer points than are asked for.
    """
    pool = sorted(set(range(len(features_PF)) if candidates is None else candidates) - set(given))
    if not len(given) <= number <= len(given) + len(pool):
        raise DataError(
            f"a design of {number} cells with {len(given)} given ones and {len(pool)} candidates"
        )
    inverse_FF = np.eye(features_PF.shape[1])
    for point in given:
        inverse_FF = _add(inverse_FF, features_PF[point], noise_variance)
    chosen = list[int]()
    while len(given) + len(chosen) < number:
        free = [point for point in pool if point not in chosen]
        gains = _gains(features_PF[free], inverse_FF)
        chosen.append(free[int(gains.argmax())])
        inverse_FF = _add(inverse_FF, features_PF[chosen[-1]], noise_variance)
    return [*given, *_exchange(features_PF, chosen, pool, list(given), noise_variance)]


def v_optimal(
    kernel_PP: np.ndarray,
    number: int,
    *,
    noise_variance: float,
    weights_KP: np.ndarray | None = None,
    places_P: np.ndarray | None = None,
) -> list[int]:
    """Return points that leave little mean variance, each the best given the ones before it.

    Args:
        kernel_PP: Prior covariance of the points.
        number: Number of points of the set.
        noise_variance: Variance of one observation.
        weights_KP: Contrasts whose mean variance counts; None for the values of all points.
        places_P: Place of every point; a place is used again once all are. None if all differ.

    Raises:
        DataError: If the set would be empty or there are fewer points.
    """
    if not 1 <= number <= len(kernel_PP):
        raise DataError(f"a design of {number} cells among {len(kernel_PP)} candidates")
    left_PP, chosen = kernel_PP.copy(), list[int]()
    for _ in range(number):
        total_P = np.diagonal(left_PP) + noise_variance
        spread_KP = left_PP if weights_KP is None else weights_KP @ left_PP
        gains_P = (spread_KP**2).sum(axis=0) / total_P
        gains_P[chosen] = -np.inf
        if places_P is not None:
            is_used_P = np.isin(places_P, places_P[chosen])
            gains_P[is_used_P & ~is_used_P.all()] = -np.inf
        point = int(gains_P.argmax())
        left_PP = left_PP - np.outer(left_PP[:, point], left_PP[:, point]) / total_P[point]
        chosen.append(point)
    return chosen


def _exchange(
    features_PF: np.ndarray,
    chosen: list[int],
    pool: Sequence[int],
    given: Sequence[int],
    noise_variance: float,
) -> list[int]:
    """Replace single points while that increases the determinant."""

    def score(points: Sequence[int]) -> float:
        rows = features_PF[[*given, *points]]
        matrix = np.eye(features_PF.shape[1]) + rows.T @ rows / noise_variance
        return float(np.linalg.slogdet(matrix)[1])

    best = score(chosen)
    is_better = True
    while is_better:
        is_better = False
        for at in range(len(chosen)):
            others = [point for point in pool if point not in chosen]
            trials = [[*chosen[:at], point, *chosen[at + 1 :]] for point in others]
            scores = [score(trial) for trial in trials]
            if scores and max(scores) > best + _MIN_GAIN:
                chosen, best = trials[int(np.argmax(scores))], max(scores)
                is_better = True
    return chosen


def _gains(rows_NF: np.ndarray, inverse_FF: np.ndarray) -> np.ndarray:
    gains: np.ndarray = np.einsum("nf,fg,ng->n", rows_NF, inverse_FF, rows_NF)
    return gains


def _add(inverse_FF: np.ndarray, row_F: np.ndarray, noise_variance: float) -> np.ndarray:
    """Return the inverse of the information matrix after another observation."""
    moved_F = inverse_FF @ row_F
    updated: np.ndarray = inverse_FF - np.outer(moved_F, moved_F) / (
        noise_variance + row_F @ moved_F
    )
    return updated
