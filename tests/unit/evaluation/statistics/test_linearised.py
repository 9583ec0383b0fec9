"""Intervals with images and raters as crossed levels: known cases and simulated coverage."""

import dataclasses

import numpy as np
import pytest

from core.errors import DataError
from evaluation.statistics.decisions import Verdict, superiority
from evaluation.statistics.ratings.linearised import (
    NO_RATER,
    ClusteredEstimate,
    Ratings,
    linearise_mean,
)


def ratings_of(values: np.ndarray, items: np.ndarray, raters: np.ndarray) -> Ratings:
    return Ratings(
        values_J=values, items_J=items, clusters_J=items.astype(str), raters_J=raters.astype(str)
    )


def simulate(
    rng: np.random.Generator, *, num_raters: int, rater_sd: float, num_items: int = 120
) -> Ratings:
    """Ratings of items in images of 1 to 5 items; all raters share the first 30 items."""
    images_I = np.repeat(np.arange(num_items), rng.integers(1, 6, num_items))[:num_items]
    quality_I = 0.1 + 0.3 * rng.standard_normal(num_items)[images_I]
    quality_I += 0.5 * rng.standard_normal(num_items)
    own_A = rater_sd * rng.standard_normal(num_raters)
    items, raters = np.array(
        [
            (item, rater)
            for item in range(num_items)
            for rater in (range(num_raters) if item < 30 else [item % num_raters])
        ]
    ).T
    values = quality_I[items] + own_A[raters] + 0.5 * rng.standard_normal(len(items))
    return Ratings(
        values_J=values,
        items_J=items,
        clusters_J=images_I[items].astype(str),
        raters_J=raters.astype(str),
    )


def estimate_of(ratings: Ratings) -> ClusteredEstimate:
    return linearise_mean(ratings).estimate(len(np.unique(ratings.clusters_J)))


def test_an_item_with_four_raters_counts_once() -> None:
    items = np.array([0, 0, 0, 0, 1])
    values = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    found = linearise_mean(ratings_of(values, items, np.array([0, 1, 2, 3, 0])))
    assert found.value == 0.5
    assert found.num_items == 2


def test_one_rating_per_image_is_the_t_interval() -> None:
    values = np.random.default_rng(0).random(40)
    items = np.arange(40)
    found = estimate_of(
        Ratings(
            values_J=values,
            items_J=items,
            clusters_J=items.astype(str),
            raters_J=np.full(40, NO_RATER),
        )
    )
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(40))
    assert found.df == 39


def test_raters_who_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    ratings = simulate(rng, num_raters=4, rater_sd=1.0)
    with_raters = estimate_of(ratings)
    without = estimate_of(
        dataclasses.replace(ratings, raters_J=np.full(len(ratings.raters_J), NO_RATER))
    )
    assert with_raters.value == without.value
    assert with_raters.standard_error > 2 * without.standard_error
    assert with_raters.df < 6


@pytest.mark.parametrize(("num_raters", "rater_sd"), [(3, 0.0), (4, 0.1), (8, 0.2)])
def test_intervals_cover_the_mean_over_images_and_raters(num_raters: int, rater_sd: float) -> None:
    rng = np.random.default_rng(2)
    covered, runs = 0, 250
    for _ in range(runs):
        interval = estimate_of(simulate(rng, num_raters=num_raters, rater_sd=rater_sd)).interval()
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.1 <= interval.high
    assert covered / runs >= 0.92


def estimate(value: float, error: float, num_clusters: int = 60) -> ClusteredEstimate:
    return ClusteredEstimate(
        value=value,
        standard_error=error,
        df=num_clusters - 1,
        num_items=num_clusters,
        num_clusters=num_clusters,
        num_raters=1,
    )


@pytest.mark.parametrize(
    ("test", "value", "error", "verdict"),
    [
        ("equivalence", 0.01, 0.03, Verdict.SUPPORTED),
        ("equivalence", 0.01, 0.07, Verdict.UNDECIDED),
        ("equivalence", -0.3, 0.03, Verdict.REFUTED),
        ("non_inferiority", 0.01, 0.03, Verdict.SUPPORTED),
        ("non_inferiority", -0.2, 0.03, Verdict.REFUTED),
        ("superiority", 0.2, 0.03, Verdict.SUPPORTED),
        ("superiority", 0.1, 0.03, Verdict.UNDECIDED),
    ],
)
def test_decisions_about_preferences(
    test: str, value: float, error: float, verdict: Verdict
) -> None:
    found = estimate(value, error).decide(test, delta=0.1)
    assert found.verdict is verdict
    assert found.difference.value == value
    few = estimate(value, error, num_clusters=9).decide(test, delta=0.1)
    assert few.verdict is Verdict.UNDECIDED
    assert few.reason == "only 9 images: at least 10 are needed"


def test_decisions_agree_with_those_on_scores() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(200), rng.random(200)
    expected = superiority(first, second, np.arange(200).astype(str), delta=0.0, seed=0)
    items = np.arange(200)
    raters = np.full(200, NO_RATER)
    found = linearise_mean(
        Ratings(
            values_J=first - second, items_J=items, clusters_J=items.astype(str), raters_J=raters
        )
    ).estimate(200)
    assert found.decide("superiority", delta=0.0).p_supported == pytest.approx(
        expected.p_supported, abs=0.01
    )


def test_invalid_tests_and_margins_are_rejected() -> None:
    with pytest.raises(DataError, match="unknown test 'better'"):
        estimate(0, 0.1).decide("better", delta=0.1)
    for test, delta in (("equivalence", 0.0), ("superiority", -0.1), ("superiority", float("nan"))):
        with pytest.raises(DataError, match="margin delta"):
            estimate(0, 0.1).decide(test, delta=delta)
    with pytest.raises(DataError, match="the same number"):
        ratings_of(np.zeros(2), np.zeros(1, dtype=int), np.zeros(2))


def test_unanimous_people_are_not_certain() -> None:
    values = np.zeros(40)
    found = estimate_of(ratings_of(values, np.arange(40), np.arange(40) % 2))
    interval = found.interval()
    assert interval.low is not None
    assert interval.low < -0.05
    assert found.decide("equivalence", delta=0.02).verdict is Verdict.UNDECIDED
