"""Resampling and intervals against worked examples, other programs and simulation."""

import dataclasses
import time

import numpy as np
import pytest
from scipy.stats import binomtest, ks_2samp, ttest_1samp

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.decisions import equivalence, superiority
from evaluation.statistics.intervals import mean_interval, paired_difference, wilson_interval
from evaluation.statistics.resampling import (
    NUM_RESAMPLES,
    bootstrap_rows,
    total_clusters,
)
from evaluation.statistics.small_samples import ClusterPrior, design_effect
from evaluation.statistics.uncertainty import describe_mean


def images(num_items, per_image=1):
    return np.array([f"p{i // per_image}" for i in range(num_items)])


def bootstrap_means(values, clusters, **options):
    """Return the means of resamples of whole clusters."""
    return bootstrap_rows(total_clusters(values, clusters), **options)[:, 0]


def test_wilson_interval_of_worked_examples():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson_interval(0, 10)
    assert (low, high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    # Rounding once gave a lower end of 2.8e-17.
    sizes = range(1, 100)
    assert {wilson_interval(0, n)[0] for n in sizes} == {0.0}
    assert {wilson_interval(n, n)[1] for n in sizes} == {1.0}
    assert wilson_interval(10, 10) == pytest.approx((1 - 0.2775, 1.0), abs=1e-4)
    with pytest.raises(DataError, match="at least one item"):
        wilson_interval(0, 0)


def test_wilson_agrees_with_scipy():
    for num_items in (1, 2, 5, 12, 40, 238, 1000):
        for num_right in {0, 1, num_items // 3, num_items // 2, num_items}:
            interval = binomtest(num_right, num_items).proportion_ci(0.95, method="wilson")
            expected = (float(interval.low), float(interval.high))
            assert wilson_interval(num_right, num_items) == pytest.approx(expected, abs=1e-12)


def test_bootstrap_is_seeded_and_named():
    values = named_rng(0, "values").random(200)
    clusters = images(200, 4)
    first = bootstrap_means(values, clusters, seed=1, names=("a",))
    assert np.array_equal(first, bootstrap_means(values, clusters, seed=1, names=("a",)))
    assert not np.array_equal(first, bootstrap_means(values, clusters, seed=1, names=("b",)))
    assert first.shape == (NUM_RESAMPLES,) == (20_000,)


def test_rows_share_their_resamples_in_chunks_of_any_size(monkeypatch):
    rng = named_rng(0, "rows")
    clusters = rng.integers(0, 50, 400)
    rows = rng.random((3, 400))
    together = bootstrap_rows(total_clusters(rows, clusters), seed=1)
    for row, column in zip(rows, together.T, strict=True):
        assert bootstrap_means(row, clusters, seed=1) == pytest.approx(column, abs=1e-12)
    monkeypatch.setattr("evaluation.statistics.resampling._CACHED_COUNTS", 0)
    uncached = bootstrap_rows(total_clusters(rows, clusters), seed=1)
    assert np.array_equal(uncached, together)


def test_equal_clusters_are_drawn_together(monkeypatch):
    """Many clusters with few distinct sums have the same distribution, and take less time."""
    values = (named_rng(0, "equal").random(2_400) < 0.3) * 1.0
    single = bootstrap_means(values, images(2_400, 3), seed=0)
    monkeypatch.setattr("evaluation.statistics.resampling._CACHED_COUNTS", 0)
    together = bootstrap_means(values, images(2_400, 3), seed=0)
    assert not np.array_equal(single, together)
    assert ks_2samp(single, together).pvalue > 0.01


@pytest.mark.slow
def test_interval_ends_do_not_depend_on_the_seed_in_the_printed_digit():
    """Interval ends of 2,000 resamples differed by up to half a point between seeds."""
    values = (named_rng(1, "noise").random(1_500) < 0.4) * 1.0
    ends = [mean_interval(values, images(1_500, 4), seed=seed).low for seed in range(10)]
    assert np.std(ends) < 0.0006


def test_bootstrap_spread_equals_the_clustered_standard_error():
    rng = named_rng(3, "clusters")
    cluster_means = rng.random(300)
    values = np.repeat(cluster_means, 5)
    means = bootstrap_means(values, images(1_500, 5), seed=0, num_resamples=4_000)
    assert means.std() == pytest.approx(cluster_means.std() / np.sqrt(300), rel=0.05)
    # Five copies of each value tell no more than one: ignoring clusters would claim otherwise.
    naive = bootstrap_means(values, images(1_500), seed=0)
    assert means.std() > 2 * naive.std()


def test_unbalanced_clusters_weigh_by_items():
    values = np.array([1.0, 1.0, 1.0, 0.0])
    clusters = ["a", "a", "a", "b"]
    means = np.unique(bootstrap_means(values, clusters, seed=0).round(6))
    assert means.tolist() == [0.0, 0.75, 1.0]
    refused = mean_interval(values, clusters, seed=0)
    assert (refused.value, refused.low, refused.high) == (0.75, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("per_image", [1, 4])
def test_coverage(per_image):
    """About 190 of 200 95 % intervals contain the truth, with items that depend on their image."""
    num_images, truth, hits = 120, 0.3, 0
    rng = named_rng(5, "coverage", per_image)
    clusters = images(num_images * per_image, per_image)
    for trial in range(200):
        chance = rng.beta(0.6, 1.4, size=num_images).repeat(per_image)
        values = (rng.random(chance.size) < chance).astype(float)
        interval = mean_interval(values, clusters, seed=trial)
        hits += interval.low <= truth <= interval.high
    assert 180 <= hits <= 199


def test_no_spread_falls_back_to_wilson_over_images():
    interval = mean_interval(np.ones(40), images(40, 4), seed=0)
    assert (interval.value, interval.high, interval.num_clusters) == (1.0, 1.0, 10)
    assert interval.low == pytest.approx(1 - 0.2775, abs=1e-4)


@pytest.mark.slow
def test_3000_items_take_less_than_200_ms():
    """On a core that draws the random numbers in 65 ms; on a slower or busier one in proportion."""
    values, clusters = named_rng(0, "speed").random(3_000), images(3_000, 2)
    rng, times, references = named_rng(0, "reference"), [], []
    for trial in range(5):
        start = time.process_time()  # other tests run at the same time
        mean_interval(values, clusters, seed=trial)
        middle = time.process_time()
        for _ in range(100):
            rng.integers(0, 1_500, size=(200, 1_500), dtype=np.uint16)
        times.append(middle - start)
        references.append(time.process_time() - middle)
    assert min(times) < 0.2 * max(1.0, min(references) / 0.065)


def cells(difference, num_items=1_200, seed=7):
    """Return strongly paired binary scores of two cells with a given difference in accuracy."""
    rng = named_rng(seed, "cells")
    skill = rng.random(num_items)
    noise = rng.random((2, num_items)) * 0.1
    return (skill + noise[0] < 0.55 + difference) * 1.0, (skill + noise[1] < 0.55) * 1.0


def test_paired_difference_is_narrower_than_unpaired():
    first, second = cells(0.1)
    clusters = images(len(first), 2)
    paired = paired_difference(first, second, clusters, seed=0)
    assert paired.low < paired.value < paired.high
    assert paired.value == pytest.approx(first.mean() - second.mean())
    assert paired.low > 0.05
    alone = mean_interval(first, clusters, seed=0)
    assert paired.high - paired.low < alone.high - alone.low


def test_few_images_have_no_interval():
    """A single image once gave an interval of width 0."""
    assert mean_interval(np.array([1.0, 0, 1, 1]), ["a"] * 4, seed=0).low is None
    assert mean_interval(np.ones(9), images(9), seed=0).low is None
    assert paired_difference(np.ones(9), np.zeros(9), images(9), seed=0).high is None
    assert mean_interval(np.ones(10), images(10), seed=0).low is not None


@pytest.mark.parametrize(("share", "num_images"), [(0.9, 20), (0.98, 34), (0.02, 100)])
def test_coverage_of_few_images_of_unequal_size(share, num_images):
    """The percentile interval covers 83-91 % in these cases (beta-binomial, correlation 0.3)."""
    hits = 0
    for trial in range(300):
        rng = named_rng(trial, "unequal")
        chance = rng.beta(share * 7 / 3, (1 - share) * 7 / 3, num_images)
        clusters = np.repeat(np.arange(num_images), rng.integers(1, 21, num_images))
        values = (rng.random(len(clusters)) < chance[clusters]) * 1.0
        interval = mean_interval(values, clusters, seed=0)
        hits += interval.low <= share <= interval.high
    assert hits / 300 > 0.92


@pytest.mark.parametrize("factor", [0.01, 30.0])
def test_intervals_of_differences_scale_with_their_unit(factor):
    """Two further changes were once counted as 1 bit each, whatever bits per byte vary by."""
    rng = named_rng(0, "unit")
    graded = rng.choice([0.0, 0.0, 0.0, 0.3, 1.0], size=60) * rng.choice([-1, 1], size=60)
    bits = 0.02 * rng.normal(size=150) + 0.01
    for values in (graded, bits):
        clusters = images(len(values), 2)
        plain, scaled = (describe_mean(v, clusters, seed=0) for v in (values, factor * values))
        expected = [factor * bound for bound in plain.bounds(0.95)]
        assert scaled.bounds(0.95) == pytest.approx(expected, rel=1e-6)
        assert scaled.tail_below(0.0) == pytest.approx(plain.tail_below(0.0), rel=1e-6)
    # Where every item changes, the interval is that of a t test.
    bounds = describe_mean(bits, images(150), seed=0).bounds(0.95)
    test = ttest_1samp(bits, 0).confidence_interval(0.95)
    assert bounds == pytest.approx((test.low, test.high), abs=0.1 * (test.high - test.low))


def test_few_deviating_images_leave_the_design_effect_to_the_prior():
    """The mean of the estimate and the prior has more degrees of freedom than the estimate."""
    prior = ClusterPrior(num_clusters=4, correlation=0.3)
    totals = total_clusters(np.eye(20)[:1].repeat(4), np.arange(20).repeat(4))
    found = design_effect(totals, 0.05 * 0.95, prior)
    assumed, observed = 1 + 3 * 0.3, 4 * 20 / 19
    assert found.value == pytest.approx(0.2 * observed + 0.8 * assumed)
    assert found.df == pytest.approx(19 * 5**2)
    halves = total_clusters(np.arange(20).repeat(4) % 2, np.arange(20).repeat(4))
    assert design_effect(halves, 0.25, prior).df == pytest.approx(19 * (24 / 20) ** 2)
    skewed = dataclasses.replace(prior, is_skewed=True)
    assert design_effect(totals, 0.05 * 0.95, skewed).df == pytest.approx(1 * 5**2)


def test_invalid_input_is_an_error():
    with pytest.raises(DataError, match="one cluster per value"):
        bootstrap_means(np.ones(3), ["a"], seed=0)
    with pytest.raises(DataError, match="at least one"):
        mean_interval(np.ones(0), [], seed=0)
    with pytest.raises(DataError, match="same items"):
        paired_difference(np.ones(3), np.ones(2), images(3), seed=0)
    with pytest.raises(DataError, match="differences of scores"):
        mean_interval(np.array([0.0, -1.0]), images(2), seed=0)
    with pytest.raises(DataError, match="delta is -1"):
        superiority(np.ones(3), np.ones(3), images(3), delta=-1, seed=0)
    with pytest.raises(DataError, match="delta is 0"):
        equivalence(np.ones(3), np.ones(3), images(3), delta=0, seed=0)
