"""Means, clustered standard errors, t tests and bootstrap intervals, written for the check only."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 20_000
_MANY, _FEW_CHANGES = 100, 60
"""Images and changed values from which large-sample methods are reliable."""
_TIE, _Z = 1e-12, 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A mean with its clustered standard error."""

    value: float
    se: float
    df: float

    def p_above(self, limit: float = 0.0) -> float:
        """Return the p-value of the hypothesis that the true value is at most a limit."""
        if self.se <= 0:
            return 1.0 if self.value <= limit else 0.0
        return float(stats.t.sf((self.value - limit) / self.se, self.df))

    def p_below(self, limit: float = 0.0) -> float:
        """Return the p-value of the hypothesis that the true value is at least a limit."""
        if self.se <= 0:
            return 1.0 if self.value >= limit else 0.0
        return float(stats.t.cdf((self.value - limit) / self.se, self.df))

    def bounds(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided t interval."""
        half = float(stats.t.ppf((1 + confidence) / 2, self.df)) * self.se
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Items:
    """Images of items, and the linear functional (a mean, or a contrast of means) over them."""

    images: np.ndarray
    groups: np.ndarray
    """Group of every item; the functional is the sum of coefficients times group means."""
    coefficients: tuple[float, ...] = (1.0,)
    weights: np.ndarray | None = None

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """Return the number of the image of every item."""
        return np.unique(self.images, return_inverse=True)[1]

    @property
    def num_images(self) -> int:
        """Return the number of images."""
        return int(self.codes.max()) + 1

    def influence(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the functional of the values and the influence of every image on it."""
        weights = np.ones(len(values)) if self.weights is None else self.weights
        total, effect = 0.0, np.zeros(len(values))
        for group, coefficient in enumerate(self.coefficients):
            rows = self.groups == group
            share = weights[rows] / weights[rows].sum()
            mean = float(share @ values[rows])
            total += coefficient * mean
            effect[rows] = coefficient * share * (values[rows] - mean)
        return total, np.bincount(self.codes, effect, self.num_images)

    def estimate(self, values: np.ndarray) -> Estimate:
        """Return the functional with its standard error over images."""
        value, effect = self.influence(values)
        number = self.num_images
        variance = number / max(1, number - 1) * float(effect @ effect)
        return Estimate(value, math.sqrt(variance), max(1, number - 1))

    def cautious(self, values: np.ndarray) -> Estimate:
        """Return the mean of values in -1..1 with an error that allows for few changes.

        Where few values differ from 0, two changes are added (Bonett and Price 2012), and the
        design effect, which few changes can't show, is taken to be larger by one half.
        """
        found = self.estimate(values)
        is_plain = self.num_images >= _MANY and np.abs(values).sum() >= _FEW_CHANGES
        if is_plain or found.se <= _TIE or len(self.coefficients) > 1:
            return found
        ratio = 1.5 * max(1.0, found.se**2 * len(values) / float(values.var()))
        variance = ratio * float(values.var()) / len(values)
        se = math.sqrt(variance + 2 * (ratio / len(values)) ** 2)
        return Estimate(found.value, max(se, found.se), found.df)

    def test(self, values: np.ndarray) -> tuple[float, ...]:
        """Return p-values of the hypothesis that a mean of values in -1..1 is at most 0.

        Ties count half, so equal systems have 0.5.
        """
        found = self.estimate(values)
        if found.se <= _TIE:
            return (0.5,) if abs(found.value) <= _TIE else (found.p_above(),)
        return found.p_above(), self.cautious(values).p_above()


def plain(images: np.ndarray) -> Items:
    """Return the functional that is the mean over items."""
    return Items(images, np.zeros(len(images), dtype=int))


def cluster_sums(values: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the values and the number of items of every image."""
    codes = np.unique(images, return_inverse=True)[1]
    return np.bincount(codes, values), np.bincount(codes).astype(float)


@functools.lru_cache(maxsize=16)
def _draws(num_images: int) -> np.ndarray:
    rng = np.random.default_rng(20_261_129)
    share = np.full(num_images, 1 / num_images)
    return rng.multinomial(num_images, share, RESAMPLES).astype(np.float32)


def bootstrap(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the mean of the values in every resample of whole images."""
    sums, counts = cluster_sums(values, images)
    draws = _draws(len(sums))
    means: np.ndarray = (draws @ sums) / (draws @ counts)
    return means


def interval(values: np.ndarray, images: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval: percentiles, or Wilson's if all values are 0 or all are 1."""
    return intervals(values, images)[0]


def intervals(values: np.ndarray, images: np.ndarray) -> list[tuple[float, float]]:
    """Return the 95 % intervals of a mean that are defensible.

    These are percentiles of the bootstrap; with few images, or few values that are not 0 or not 1,
    also the t interval and Wilson's with the effective number of items, and without any spread
    Wilson's, on both sides for a mean difference.
    """
    number, mean = len(np.unique(images)), float(values.mean())
    if np.ptp(values) == 0 and mean in (0.0, 1.0):
        edge = _Z**2 / (number + _Z**2)
        return [(0.0, edge), (-edge, edge)] if mean == 0 else [(1 - edge, 1.0)]
    low, high = np.percentile(bootstrap(values, images), [2.5, 97.5])
    found = [(float(low), float(high))]
    items = plain(images)
    estimate = items.estimate(values)
    # Changes on one image count as fewer, by the variance that they have in common.
    together = max(1.0, estimate.se**2 * len(values) / max(_TIE, float(values.var())))
    num_changes = min(np.abs(values).sum(), np.abs(1 - values).sum()) / together
    if number >= _MANY and num_changes >= _FEW_CHANGES:
        return found
    found += [items.cautious(values).bounds(0.95)]
    if (values < 0).any():
        return found
    t = float(stats.t.ppf(0.975, estimate.df))
    for growth in (1.0, 2.0):
        ratio = growth * estimate.se**2 * len(values) / (mean * (1 - mean))
        size = len(values) / ratio
        centre = (mean + t * t / (2 * size)) / (1 + t * t / size)
        root = math.sqrt(mean * (1 - mean) / size + (t / (2 * size)) ** 2)
        half = t * root / (1 + t * t / size)
        found.append((centre - half, centre + half))
    return found


def heterogeneity(differences: np.ndarray, items: Items) -> float:
    """Return the p-value of equal means of rows: Wald test of contrasts, Hotelling's F."""
    found = [items.influence(row) for row in differences]
    means = np.array([value for value, _ in found])
    effects = np.array([effect for _, effect in found])
    number, parts = items.num_images, len(means)
    contrast = np.diff(np.eye(parts), axis=0)
    covariance = contrast @ (number / (number - 1) * effects @ effects.T) @ contrast.T
    gap, df = contrast @ means, parts - 1
    q = float(gap @ np.linalg.pinv(covariance, hermitian=True) @ gap)
    return float(stats.f.sf(q * (number - df) / (df * (number - 1)), df, number - df))


@dataclass(frozen=True)
class Spread:
    """Mean squares of replicated trainings, pooled over cells."""

    between: float
    noise: float
    df: int


def training_spread(cells: list[np.ndarray], items: Items) -> Spread | None:
    """Estimate how much means differ between trainings, and how much of it is noise of items."""
    between = noise = 0.0
    df = 0
    for scores in (cell for cell in cells if len(cell) > 1):
        means = np.array([items.influence(row)[0] for row in scores])
        between += float(((means - means.mean()) ** 2).sum())
        centred = scores - scores.mean(axis=0)
        noise += sum(items.estimate(row).se ** 2 for row in centred)
        df += len(scores) - 1
    return Spread(between / df, noise / df, df) if df else None


def recipe_estimate(models: Estimate, spread: Spread, squared_weights: float) -> Estimate:
    """Add the variance of trainings to an estimate about trained models (Satterthwaite)."""
    images = max(0.0, models.se**2 - squared_weights * spread.noise)
    training = squared_weights * spread.between
    total = images + training
    df = total**2 / (training**2 / spread.df + images**2 / models.df)
    return Estimate(models.value, math.sqrt(total), df)


def holm(p_values: list[float]) -> list[float]:
    """Return p-values after Holm's correction."""
    order = np.argsort(p_values)
    adjusted, worst = [1.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[int(at)] = worst
    return adjusted
