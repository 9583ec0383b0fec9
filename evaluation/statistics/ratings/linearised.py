"""Estimates from ratings whose error has two sources: the images and the people who rate.

An estimate is described by the influence of every rating, that is, by its first-order effect on the
estimate. Influences are added up per image and per rater. The variance is that of two-way
clustering (Cameron, Gelbach and Miller 2011): the variance between images plus the variance
between raters, minus that of their intersection, which both of them contain. It is never smaller
than the variance between images. The distribution is Student's t with Satterthwaite's degrees of
freedom, of which few raters leave few.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from core.errors import DataError
from evaluation.statistics.claim_tests import ClaimTest
from evaluation.statistics.decisions import (
    ALPHA,
    Bounds,
    Decision,
    Verdict,
    explain_few_clusters,
    judge,
)
from evaluation.statistics.intervals import CONFIDENCE, Interval
from evaluation.statistics.uncertainty import (
    MIN_CLUSTERS,
    ConstantMean,
    StudentMean,
    Uncertainty,
)

NO_RATER = ""
"""Rater of an influence that does not depend on a person."""
_TINY = 1e-12
"""Standard error below which all images agree; scores differ by much more, rounding by less."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ratings:
    """Ratings of items, several of which may concern the same item.

    Every item counts once in a mean, however many ratings it has.
    """

    values_J: np.ndarray
    """Value of every rating."""
    items_J: np.ndarray
    """Index of its item in 0..I-1; every item has a rating."""
    clusters_J: np.ndarray
    """Image of its item, as a string."""
    raters_J: np.ndarray
    """Name of its rater."""

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            DataError: If there are no ratings, or the numbers differ.
        """
        sizes = [len(a) for a in (self.values_J, self.items_J, self.clusters_J, self.raters_J)]
        if not sizes[0] or len(set(sizes)) != 1:
            raise DataError(
                f"{sizes} values, items, clusters and raters; expected the same number, at least 1"
            )

    def weights(self) -> np.ndarray:
        """Return the weight of every rating in a mean over items, shape (J,); they sum to 1."""
        counts_I = np.bincount(self.items_J)
        weights_J: np.ndarray = 1.0 / (counts_I[self.items_J] * len(counts_I))
        return weights_J

    def item_means(self) -> np.ndarray:
        """Return the mean rating of every item, shape (I,)."""
        sums_I = np.bincount(self.items_J, weights=self.values_J)
        means_I: np.ndarray = sums_I / np.bincount(self.items_J)
        return means_I


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Linearisation:
    """An estimate and the influences that determine its error."""

    value: float
    influences_J: np.ndarray
    clusters_J: np.ndarray
    raters_J: np.ndarray
    """Rater of every influence; `NO_RATER` for those without one."""
    num_items: int

    def scaled(self, factor: float) -> "Linearisation":
        """Return the linearisation of a multiple of the estimate."""
        return dataclasses.replace(
            self, value=factor * self.value, influences_J=factor * self.influences_J
        )

    def plus(self, other: "Linearisation") -> "Linearisation":
        """Return the linearisation of the sum of two estimates, with the items of the first."""
        return Linearisation(
            value=self.value + other.value,
            influences_J=np.concatenate([self.influences_J, other.influences_J]),
            clusters_J=np.concatenate([self.clusters_J, other.clusters_J]),
            raters_J=np.concatenate([self.raters_J, other.raters_J]),
            num_items=self.num_items,
        )

    def estimate(self, num_clusters: int) -> "ClusteredEstimate":
        """Return the estimate with its standard error.

        Args:
            num_clusters: Number of images with rated items.
        """
        _, image_codes_J = np.unique(self.clusters_J, return_inverse=True)
        is_rated_J = self.raters_J != NO_RATER
        names, rater_codes_J = np.unique(self.raters_J[is_rated_J], return_inverse=True)
        rated_J = self.influences_J[is_rated_J]
        between_images = _sum_of_squares(image_codes_J, self.influences_J)
        between_images *= num_clusters / max(1, num_clusters - 1)
        df_images = float(max(1, num_clusters - 1))
        num_raters = len(names)
        between_raters = own_raters = 0.0
        if num_raters > 1:
            own_raters = _sum_of_squares(rater_codes_J, rated_J) * num_raters / (num_raters - 1)
            pairs_J = image_codes_J[is_rated_J] * num_raters + rater_codes_J
            both = _sum_of_squares(np.unique(pairs_J, return_inverse=True)[1], rated_J)
            between_raters = max(0.0, own_raters - both)
        variance, df = between_images + between_raters, df_images
        if num_raters > 1 and variance > 0:
            spread = between_images**2 / df_images + own_raters**2 / (num_raters - 1)
            df = min(df_images, variance**2 / spread)
        return ClusteredEstimate(
            value=self.value,
            standard_error=math.sqrt(variance),
            df=max(1.0, df),
            num_items=self.num_items,
            num_clusters=num_clusters,
            num_raters=num_raters,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClusteredEstimate:
    """An estimate with its standard error and degrees of freedom."""

    value: float
    standard_error: float
    df: float
    num_items: int
    num_clusters: int
    num_raters: int
    """Number of raters; the interval concerns these raters only if there is one of them."""

    def bounds(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Return the bounds on an unlimited scale; None with fewer than `MIN_CLUSTERS` images."""
        found = self._uncertainty()
        return None if found is None else found.bounds(confidence)

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return the interval of a value in -1..1.

        Its ends are None with fewer than `MIN_CLUSTERS` images.
        """
        low, high = self.bounds(confidence) or (None, None)
        return Interval(
            value=self.value,
            low=None if low is None else max(-1.0, low),
            high=None if high is None else min(1.0, high),
            num_items=self.num_items,
            num_clusters=self.num_clusters,
        )

    def decide(self, test: str, *, delta: float, alpha: float = ALPHA) -> Decision:
        """Test the estimate, a difference of two systems in -1..1, against a margin.

        * non_inferiority: it is above -delta.
        * equivalence: it lies between -delta and delta (TOST).
        * superiority: it is above delta, which may be 0.

        Raises:
            DataError: If the test is unknown, or the margin is negative, or 0 for another test than
                superiority.
        """
        if test not in {known.value for known in ClaimTest}:
            raise DataError(f"unknown test '{test}'; choose from {', '.join(ClaimTest)}")
        if not (delta > 0 or (delta == 0 and test == ClaimTest.SUPERIORITY)):
            raise DataError(
                f"the margin delta is {delta}; expected a positive number such as 0.1 (55 against "
                "45 %), or 0 for superiority"
            )
        found = self._uncertainty()
        if found is None:
            return Decision(
                verdict=Verdict.UNDECIDED,
                difference=self.interval(1 - 2 * alpha),
                delta=delta,
                p_supported=1.0,
                p_refuted=1.0,
                clusters_needed=MIN_CLUSTERS,
                reason=explain_few_clusters(self.num_clusters),
                confidence=1 - 2 * alpha,
            )
        p_supported, p_refuted, room = _test(found, test, delta)

        def bounds_at(level: float) -> Bounds:
            low, high = found.bounds(level)
            return max(-1.0, low), min(1.0, high)

        return Decision(
            verdict=judge(p_supported, p_refuted, alpha),
            difference=self.interval(1 - 2 * alpha),
            delta=delta,
            p_supported=p_supported,
            p_refuted=p_refuted,
            clusters_needed=found.clusters_needed(room, alpha),
            confidence=1 - 2 * alpha,
            bounds_at=bounds_at,
        )

    def _uncertainty(self) -> Uncertainty | None:
        if self.num_clusters < MIN_CLUSTERS:
            return None
        if self.standard_error < _TINY:
            return ConstantMean(value=self.value, num_clusters=self.num_clusters)
        return StudentMean(
            value=self.value,
            num_clusters=self.num_clusters,
            standard_error=self.standard_error,
            df=self.df,
            num_changes=float(self.num_items),
        )


def linearise_mean(ratings: Ratings) -> Linearisation:
    """Return the mean over items, in which every item counts once, with its influences."""
    value = float(ratings.item_means().mean())
    return Linearisation(
        value=value,
        influences_J=ratings.weights() * (ratings.values_J - value),
        clusters_J=ratings.clusters_J,
        raters_J=ratings.raters_J,
        num_items=int(ratings.items_J.max()) + 1,
    )


def linearise_share(is_member_N: np.ndarray, clusters: Sequence[str] | np.ndarray) -> Linearisation:
    """Return the share of items for which a property holds, with influences without raters."""
    share = float(np.mean(is_member_N))
    return Linearisation(
        value=share,
        influences_J=(is_member_N - share) / len(is_member_N),
        clusters_J=np.asarray(clusters),
        raters_J=np.full(len(is_member_N), NO_RATER),
        num_items=len(is_member_N),
    )


def _test(found: Uncertainty, test: str, delta: float) -> tuple[float, float, float]:
    """Return the p-values of support and refutation and the distance from the limit."""
    if test == ClaimTest.EQUIVALENCE:
        p_supported = max(found.tail_below(-delta), found.tail_above(delta))
        # A value beyond the other end of the margin is as extreme, and part of the p-value.
        tail = found.tail_below if found.value >= 0 else found.tail_above
        p_refuted = min(1.0, tail(delta) + tail(-delta))
        return p_supported, p_refuted, delta - abs(found.value)
    limit = delta if test == ClaimTest.SUPERIORITY else -delta
    return found.tail_below(limit), found.tail_above(limit), found.value - limit


def _sum_of_squares(codes_J: np.ndarray, influences_J: np.ndarray) -> float:
    return float((np.bincount(codes_J, weights=influences_J) ** 2).sum())
