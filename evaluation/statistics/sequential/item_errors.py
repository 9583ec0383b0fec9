"""Errors of means over the items of a benchmark, for trained cells and for those to come."""

import dataclasses

import numpy as np

from evaluation.statistics.surfaces.cell_surface import Observed

_MIN_SHARE = 0.02
"""Smallest part of the variance of a new cell's error that trained cells do not explain."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ItemErrors:
    """Joint distribution of the errors of all P means.

    The errors of cells that are not trained are expected to vary, and to correlate with the others,
    as those of the trained cells do on average.
    """

    trained: tuple[int, ...]
    means_P: np.ndarray
    """Observed means; nan for points that are not trained."""
    covariance_PP: np.ndarray
    slopes_UT: np.ndarray
    """Regression of the errors of untrained points on those of trained ones."""
    roots_UU: np.ndarray
    """Square root of the covariance of what the regression leaves."""

    @classmethod
    def of(cls, observed: Observed, num_points: int) -> "ItemErrors":
        """Complete the covariance of the trained points."""
        at = list(observed.points)
        free = [point for point in range(num_points) if point not in observed.points]
        known_TT = observed.covariance_TT
        variance = float(np.diagonal(known_TT).mean())
        pairs = known_TT[np.triu_indices(len(at), 1)]
        shared = float(pairs.mean()) if len(pairs) else 0.0
        shared = min(max(shared, 0.0), (1 - _MIN_SHARE) * variance)
        crossed_UT = np.full((len(free), len(at)), shared)
        ridge_TT = known_TT + 1e-9 * variance * np.eye(len(at))
        slopes_UT = np.linalg.solve(ridge_TT, crossed_UT.T).T
        own_UU = shared + (variance - shared) * np.eye(len(free))
        values_U, vectors_UU = np.linalg.eigh(own_UU - slopes_UT @ crossed_UT.T)
        left_U = np.maximum(values_U, _MIN_SHARE * variance)
        roots_UU = vectors_UU * np.sqrt(left_U)
        covariance_PP = np.empty((num_points, num_points))
        covariance_PP[np.ix_(at, at)] = known_TT
        covariance_PP[np.ix_(free, at)] = slopes_UT @ known_TT
        covariance_PP[np.ix_(at, free)] = covariance_PP[np.ix_(free, at)].T
        covariance_PP[np.ix_(free, free)] = slopes_UT @ known_TT @ slopes_UT.T
        covariance_PP[np.ix_(free, free)] += roots_UU @ roots_UU.T
        means_P = np.full(num_points, np.nan)
        means_P[at] = observed.means_T
        return cls(
            trained=observed.points,
            means_P=means_P,
            covariance_PP=covariance_PP,
            slopes_UT=slopes_UT,
            roots_UU=roots_UU,
        )

    def draw_means(self, values_NP: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the means that would be measured for draws of the values, shape (N, P).

        Trained points have their observed means. The errors of the others depend on the errors that
        the observed means have for each draw.
        """
        at = list(self.trained)
        free = [point for point in range(values_NP.shape[1]) if point not in self.trained]
        means_NP = np.broadcast_to(self.means_P, values_NP.shape).copy()
        errors_NT = self.means_P[at] - values_NP[:, at]
        noise_NU = rng.standard_normal((len(values_NP), len(free))) @ self.roots_UU.T
        means_NP[:, free] = values_NP[:, free] + errors_NT @ self.slopes_UT.T + noise_NU
        return means_NP
