"""Prediction-powered inference: a judge on all items, corrected by people on a random subset.

Angelopoulos, Bates, Fannjiang, Jordan and Zrnic (2023), with the power tuning of PPI++
(Angelopoulos, Duchi and Zrnic 2023). The estimate is the mean of the people's values plus lambda
times the difference between the judge's mean on all items and on those that people rated. It is
unbiased however wrong the judge is, provided that the rated items are a random sample. Lambda
minimises the variance, so a useless judge has a lambda of 0, which leaves the people's mean.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from core.errors import DataError
from evaluation.statistics.intervals import CONFIDENCE, Interval
from evaluation.statistics.ratings.linearised import (
    NO_RATER,
    Linearisation,
    Ratings,
    linearise_mean,
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PoweredMean:
    """A prediction-powered mean."""

    linearisation: Linearisation
    power: float
    """The tuned lambda in 0..1, the weight of the judge."""
    num_clusters: int
    """Number of images with items that people rated."""

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return the interval, clustered by image and by rater."""
        return self.linearisation.estimate(self.num_clusters).interval(confidence)


def ppi_mean(
    judge_all: np.ndarray,
    judge_labelled: np.ndarray,
    human_labelled: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    labelled_clusters: Sequence[str] | np.ndarray,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the prediction-powered mean of values in -1..1 with one human value per item.

    Args:
        judge_all: The judge's value of each of all N items, including the labelled ones.
        judge_labelled: The judge's values of the n items that people rated.
        human_labelled: The people's values of the same n items in the same order.
        clusters: Image of each of the N items.
        labelled_clusters: Image of each of the n items.
        confidence: Confidence level of the interval.

    Raises:
        DataError: If the numbers of values do not fit together.
    """
    ratings = Ratings(
        values_J=np.asarray(human_labelled, dtype=np.float64),
        items_J=np.arange(len(human_labelled)),
        clusters_J=np.asarray(labelled_clusters),
        raters_J=np.full(len(human_labelled), NO_RATER),
    )
    return powered_mean(judge_all, clusters, judge_labelled, ratings).interval(confidence)


def powered_mean(
    judge_all: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    judge_labelled: np.ndarray,
    human: Ratings,
) -> PoweredMean:
    """Return the prediction-powered mean of items that several people may have rated.

    Args:
        judge_all: The judge's value of each of all N items, including the labelled ones.
        clusters: Image of each of the N items.
        judge_labelled: The judge's values of the n items that people rated, by item index of
            `human`.
        human: The people's ratings of these items.

    Raises:
        DataError: If the numbers of values do not fit together.
    """
    judge_all, judge_labelled = np.asarray(judge_all), np.asarray(judge_labelled)
    num_rated = int(human.items_J.max()) + 1
    if len(judge_labelled) != num_rated or len(judge_all) != len(clusters):
        raise DataError(
            f"the judge has {len(judge_labelled)} values for {num_rated} items that people rated, "
            f"and {len(judge_all)} values for {len(clusters)} clusters; expected equal numbers"
        )
    if num_rated > len(judge_all):
        raise DataError(
            f"people rated {num_rated} items and the judge {len(judge_all)}; the judge has to rate "
            "every item that people rated"
        )
    on_people = linearise_mean(human)
    on_rated = linearise_mean(
        dataclasses.replace(human, values_J=judge_labelled[human.items_J].astype(np.float64))
    )
    # The judge's values do not depend on the people, so they add nothing between raters.
    on_rated = dataclasses.replace(on_rated, raters_J=np.full(len(human.raters_J), NO_RATER))
    on_all = Linearisation(
        value=float(judge_all.mean()),
        influences_J=(judge_all - judge_all.mean()) / len(judge_all),
        clusters_J=np.asarray(clusters),
        raters_J=np.full(len(judge_all), NO_RATER),
        num_items=len(judge_all),
    )
    correction = on_all.plus(on_rated.scaled(-1.0))
    power = _tune(on_people, correction)
    return PoweredMean(
        linearisation=dataclasses.replace(
            on_people.plus(correction.scaled(power)), num_items=len(judge_all)
        ),
        power=power,
        num_clusters=len(np.unique(human.clusters_J)),
    )


def _tune(on_people: Linearisation, correction: Linearisation) -> float:
    """Return the lambda in 0..1 that minimises the variance between images."""
    both = np.concatenate([on_people.clusters_J, correction.clusters_J])
    _, codes = np.unique(both, return_inverse=True)
    split, num_codes = len(on_people.clusters_J), int(codes.max()) + 1
    own_C = np.bincount(codes[:split], weights=on_people.influences_J, minlength=num_codes)
    judge_C = np.bincount(codes[split:], weights=correction.influences_J, minlength=num_codes)
    spread = float(judge_C @ judge_C)
    return 0.0 if spread == 0 else float(np.clip(-(own_C @ judge_C) / spread, 0.0, 1.0))
