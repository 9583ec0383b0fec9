"""Intervals, paired comparisons and corrections against worked examples and simulation."""

import time

import numpy as np
import pytest
from scipy.stats import binomtest

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.intervals import (
    Verdict,
    apply_holm,
    bootstrap_means,
    equivalence,
    holm,
    mean_interval,
    non_inferiority,
    paired_difference,
    wilson_interval,
)


def images(num_items, per_image=1):
    return np.array([f"p{i // per_image}" for i in range(num_items)])


def test_wilson_interval_of_worked_examples():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson_interval(0, 10)
    assert (low, high) == pytest.approx((0.0, 0.2775), abs=1e-4)
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
    assert first.shape == (2_000,)


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
    assert mean_interval(values, clusters, seed=0).value == 0.75


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


def test_3000_items_take_less_than_200_ms():
    values, clusters = named_rng(0, "speed").random(3_000), images(3_000, 2)
    times = []
    for trial in range(5):
        start = time.perf_counter()
        mean_interval(values, clusters, seed=trial)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2


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


@pytest.mark.parametrize(
    ("difference", "num_items", "verdict"),
    [
        (0.0, 1_200, Verdict.SUPPORTED),
        (0.15, 1_200, Verdict.REFUTED),
        (-0.15, 1_200, Verdict.REFUTED),
        (0.0, 40, Verdict.UNDECIDED),
    ],
)
def test_equivalence(difference, num_items, verdict):
    first, second = cells(difference, num_items)
    decision = equivalence(first, second, images(num_items, 2), delta=0.03, seed=0)
    assert decision.verdict is verdict
    interval = decision.difference
    is_inside = interval.low > -0.03 and interval.high < 0.03
    assert is_inside is (verdict is Verdict.SUPPORTED)


@pytest.mark.parametrize(
    ("difference", "num_items", "verdict"),
    [
        (0.0, 1_200, Verdict.SUPPORTED),
        (0.15, 1_200, Verdict.SUPPORTED),
        (-0.15, 1_200, Verdict.REFUTED),
        (0.0, 40, Verdict.UNDECIDED),
    ],
)
def test_non_inferiority(difference, num_items, verdict):
    first, second = cells(difference, num_items)
    decision = non_inferiority(first, second, images(num_items, 2), delta=0.03, seed=0)
    assert decision.verdict is verdict


def test_undecided_claims_report_the_number_of_images_needed():
    first, second = cells(0.0, 40)
    decision = non_inferiority(first, second, images(40), delta=0.05, seed=0)
    assert decision.clusters_needed is not None
    assert decision.clusters_needed > 40
    hopeless = equivalence(*cells(0.3, 40), images(40), delta=0.01, seed=0)
    assert hopeless.clusters_needed is None


def test_holm_on_a_worked_example():
    # Holm (1979) by hand: .01*4, .013*3 -> raised to .04, .03*2, .04*1 -> raised to .06
    assert holm([0.03, 0.01, 0.04, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


def test_holm_over_a_grid_withdraws_a_weak_verdict():
    first, second = cells(0.0, 200)
    weak = non_inferiority(first, second, images(200), delta=0.04, seed=0)
    strong = non_inferiority(*cells(0.15), images(1_200), delta=0.03, seed=0)
    assert 0.005 < weak.p_supported < 0.05
    assert weak.verdict is strong.verdict is Verdict.SUPPORTED
    corrected = apply_holm([strong, weak, *[weak] * 9])
    assert corrected[0].verdict is Verdict.SUPPORTED
    assert corrected[1].verdict is Verdict.UNDECIDED
    assert corrected[1].p_supported > weak.p_supported


def test_invalid_input_is_an_error():
    with pytest.raises(DataError, match="one cluster per value"):
        bootstrap_means(np.ones(3), ["a"], seed=0)
    with pytest.raises(DataError, match="at least one"):
        mean_interval(np.ones(0), [], seed=0)
    with pytest.raises(DataError, match="same items"):
        paired_difference(np.ones(3), np.ones(2), images(3), seed=0)
    with pytest.raises(DataError, match="delta is 0"):
        equivalence(np.ones(3), np.ones(3), images(3), delta=0, seed=0)


@pytest.mark.slow
def test_error_rates_on_simulated_grids_are_as_promised():
    """A short run of benchmarks/statistics_simulation.py (full run: docs/reference/metrics.md)."""
    from benchmarks.statistics_simulation import run

    rates = run(200, num_images=150, per_image=4, seed=10_000)["rates"]
    coverage = [rates[name]["interval"] for name in rates if "interval" in name]
    assert len(coverage) == 2
    assert all(low <= 0.97 and high >= 0.93 for low, high in coverage)
    wrong = {name: rate["interval"][0] for name, rate in rates.items() if "false" in name}
    without = wrong.pop("six claims, uncorrected: a false support")
    assert without > 0.05, "that is what Holm is for"
    assert len(wrong) == 3
    assert max(wrong.values()) <= 0.05
