"""Decisions about claims, their corrections, and the heterogeneity of pooled claims."""

import dataclasses

import numpy as np
import pytest

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.decisions import (
    RelativeMargin,
    Verdict,
    equivalence,
    non_inferiority,
    superiority,
)
from evaluation.statistics.heterogeneity import heterogeneity
from evaluation.statistics.multiple_testing import apply_holm, holm


def images(num_items, per_image=1):
    return np.array([f"p{i // per_image}" for i in range(num_items)])


def cells(difference, num_items=1_200, seed=7):
    """Return strongly paired binary scores of two cells with a given difference in accuracy."""
    rng = named_rng(seed, "cells")
    skill = rng.random(num_items)
    noise = rng.random((2, num_items)) * 0.1
    return (skill + noise[0] < 0.55 + difference) * 1.0, (skill + noise[1] < 0.55) * 1.0


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
    at_the_margin = non_inferiority(first, first + 0.05, images(40), delta=0.05, seed=0)
    assert at_the_margin.clusters_needed is None


@pytest.mark.parametrize("num_images", [20, 400])
def test_equal_cells_are_neither_better_nor_worse(num_images):
    """Rounding of score + margin once refuted the superiority of identical cells (p 0.0025)."""
    scores = named_rng(0, "equal").random(num_images)
    same = superiority(scores, scores, images(num_images), seed=0)
    assert same.verdict is Verdict.UNDECIDED
    assert (same.p_supported, same.p_refuted) == pytest.approx((0.5, 0.5), abs=1e-4)
    raised = non_inferiority(scores, scores + 0.03, images(num_images), delta=0.03, seed=0)
    assert raised.verdict is Verdict.UNDECIDED
    better = superiority(scores, scores - 0.3, images(num_images), seed=0)
    assert better.verdict is Verdict.SUPPORTED


def test_ties_count_half():
    """Many resampled differences of rare opposite changes are exactly zero."""
    differences = np.zeros(400)
    differences[0], differences[-1] = 1, -1
    decision = superiority(differences, np.zeros(400), images(400), seed=0)
    assert decision.p_supported == pytest.approx(0.5, abs=0.02)
    assert decision.p_refuted == pytest.approx(0.5, abs=0.02)


def test_few_images_decide_nothing():
    """A single image once gave an interval of width 0 and a supported claim."""
    first, second = np.array([1.0, 0, 1, 1]), np.array([0.0, 0, 1, 0])
    one = non_inferiority(first, second, ["a"] * 4, delta=0.03, seed=0)
    assert one.verdict is Verdict.UNDECIDED
    assert one.reason == "only 1 images: at least 10 are needed"
    assert one.difference.low is one.difference.high is None
    eight = equivalence(np.ones(8), np.ones(8), images(8), delta=0.03, seed=0)
    assert (eight.verdict, eight.clusters_needed) == (Verdict.UNDECIDED, 10)
    nine = superiority(np.ones(9), np.zeros(9), images(9), seed=0)
    assert nine.reason.startswith("only 9")
    assert apply_holm([nine])[0].verdict is Verdict.UNDECIDED


def test_a_few_equal_images_do_not_prove_equivalence():
    """Without any spread, the bound is the share of exceptions that could be hidden."""
    scores = np.ones(40)
    few = equivalence(scores[:20], scores[:20], images(20), delta=0.03, seed=0)
    assert few.verdict is Verdict.UNDECIDED
    assert few.clusters_needed == 88
    assert few.difference.high == pytest.approx(1.6449**2 / (20 + 1.6449**2), abs=1e-4)
    many = equivalence(np.ones(400), np.ones(400), images(400), delta=0.03, seed=0)
    assert many.verdict is Verdict.SUPPORTED


def test_refutation_of_equivalence_counts_both_sides():
    """An error far beyond the margin refutes neither side by chance."""
    rng = named_rng(1, "wide")
    first, second = rng.random(40), rng.random(40)
    decision = equivalence(first, second, images(40), delta=1e-6, seed=0)
    two_sided = superiority(first, second, images(40), seed=0)
    expected = 2 * min(two_sided.p_supported, two_sided.p_refuted)
    assert decision.p_refuted == pytest.approx(expected, rel=0.15)


def test_a_relative_margin_carries_its_own_error():
    """A tenth of best minus blind: the true margin is 0.04, its estimate varies with the images."""
    rng = named_rng(0, "relative")
    blind = (rng.random(4000) < 0.2) * 1.0
    second = (rng.random(4000) < 0.6) * 1.0
    margin = RelativeMargin(fraction=0.1, blind=blind)
    decision = non_inferiority(second, second, images(4000), delta=margin, seed=0)
    assert decision.delta == pytest.approx(0.1 * (second - blind).mean())
    assert decision.verdict is Verdict.SUPPORTED
    # Equal systems differ by exactly 0, but the distance to the margin is uncertain.
    assert decision.difference.low < 0 < decision.difference.high
    assert equivalence(second, second, images(4000), delta=margin, seed=0).delta == decision.delta
    hopeless = non_inferiority(
        blind, blind, images(4000), delta=RelativeMargin(fraction=0.1, blind=second), seed=0
    )
    assert hopeless.verdict is Verdict.UNDECIDED
    assert "does not exceed its blind score" in hopeless.reason
    with pytest.raises(DataError, match="fraction between 0 and 1"):
        RelativeMargin(fraction=10, blind=blind)


def test_holm_on_a_worked_example():
    # Holm (1979) by hand: .01*4, .013*3 -> raised to .04, .03*2, .04*1 -> raised to .06
    assert holm([0.03, 0.01, 0.04, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


def test_logic_limits_the_factors():
    assert holm([0.01, 0.02, 0.04], max_true=2) == pytest.approx([0.02, 0.04, 0.04])


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
    # The interval is corrected as well, so it does not contradict the verdict.
    assert corrected[1].difference.low < -0.04 < weak.difference.low
    assert corrected[1].confidence == pytest.approx(1 - 0.1 / 11)


def test_support_and_refutation_share_one_error_level():
    """A claim that is nearly supported weakens one that is nearly refuted, and vice versa.

    Two families of their own would test the last p-value of each at 5 %, and allow 10 % together.
    """
    first, second = cells(0.0, 200)
    weak = non_inferiority(first, second, images(200), delta=0.04, seed=0)
    pair = [
        dataclasses.replace(weak, p_supported=0.04, p_refuted=0.96),
        dataclasses.replace(weak, p_supported=0.98, p_refuted=0.02),
    ]
    corrected = apply_holm(pair)
    assert [one.verdict for one in corrected] == [Verdict.UNDECIDED, Verdict.REFUTED]
    assert corrected[0].p_supported == pytest.approx(0.08)
    assert corrected[1].p_refuted == pytest.approx(0.04)


def test_heterogeneous_parts_are_recognised():
    """Effects of +17, 0 and -3 points are not one effect; three equal ones are."""
    rng = named_rng(0, "parts")
    noise = rng.normal(0, 0.1, (3, 400))
    unlike = heterogeneity(noise + np.array([[0.17], [0.0], [-0.03]]), images(400, 2))
    assert unlike.df == 2
    assert unlike.p_value < 0.001
    assert [effect.value for effect in unlike.effects] == pytest.approx([0.17, 0, -0.03], abs=0.03)
    alike = heterogeneity(noise, images(400, 2))
    assert alike.p_value > 0.01
    few = heterogeneity(noise[:, :8], images(8))
    assert few.q is few.p_value is None
    same = heterogeneity(np.tile(noise[:1], (3, 1)), images(400, 2))
    assert same.p_value == 1.0
    with pytest.raises(DataError, match="at least two parts"):
        heterogeneity(noise[:1], images(400, 2))


@pytest.mark.slow
def test_heterogeneity_of_independent_parts_is_cochrans_q():
    values = named_rng(2, "cochran").uniform(-1, 1, (4, 3_000))
    found = heterogeneity(values, images(3_000))
    errors = values.std(axis=1, ddof=1) / np.sqrt(3_000)
    means, weights = values.mean(axis=1), errors**-2.0
    expected = (weights * (means - np.average(means, weights=weights)) ** 2).sum()
    assert found.q == pytest.approx(expected, rel=0.1)
