"""Sufficient shares on simulated grids whose truth is known."""

import numpy as np
import pytest

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.decisions import RelativeMargin, Verdict
from evaluation.statistics.multiple_testing import apply_holm
from evaluation.statistics.sweeps.share_comparison import ShareComparison
from evaluation.statistics.sweeps.sufficiency import enough_decision, sufficient_shares

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def grid(truths, *, num_images=400, per_image=4, seed=0):
    rng = named_rng(seed, "truth")
    ease = np.repeat(rng.uniform(-0.2, 0.2, num_images), per_image)
    chance = np.clip(np.asarray(truths)[:, None] + ease, 0, 1)
    return (rng.random(chance.shape) < chance).astype(float), np.repeat(
        np.arange(num_images), per_image
    )


def test_a_curve_that_saturates_early_has_a_small_sufficient_share():
    truths = [0.05, 0.55, 0.6, 0.6, 0.6, 0.6]
    scores, images = grid(truths, num_images=4000)
    found = sufficient_shares(SHARES, scores, images, delta=0.03, seed=1)
    assert found.smallest == 0.4
    assert found.sufficient == (0.4, 0.6, 0.8, 1.0)
    assert not found.drops
    assert [round(point.value, 1) for point in found.points] == pytest.approx(truths, abs=0.06)
    assert found.points[1].p_insufficient < 0.05 < found.points[1].p_sufficient
    assert found.points[0].next_gain[0] > 0.2
    assert abs(found.points[-1].next_gain[0]) < 0.01
    for point in found.points:
        low, high = point.next_gain[1:]
        assert low <= point.next_gain[0] <= high
        assert point.low < point.value < point.high


def test_a_drop_at_the_largest_share_does_not_hide_the_sufficient_ones():
    """The answer was once "no share is within 3 points of the best" (too much Basque forgets)."""
    scores, images = grid([0.3, 0.5, 0.5, 0.5, 0.5, 0.42], num_images=4000)
    found = sufficient_shares(SHARES, scores, images, delta=0.03, seed=0)
    assert found.sufficient == (0.2, 0.4, 0.6, 0.8)
    assert found.smallest == 0.2
    assert found.drops
    assert [drop.larger for drop in found.drops] == [1.0]
    assert found.drops[0].difference == pytest.approx(-0.08, abs=0.03)
    assert enough_decision(found, 1.0).verdict is Verdict.REFUTED
    assert not found.curve.is_adequate
    assert {point.next_gain for point in found.points} == {None}


def test_the_claim_never_compares_a_share_with_itself():
    """The best share observed once supported itself with p = 1/2001, whatever the noise."""
    scores, images = grid([0.5, 0.5, 0.5], num_images=35, seed=3)
    shares = (0.0, 0.2, 0.4)
    found = sufficient_shares(shares, scores, images, delta=0.03, seed=0)
    best = max(found.points, key=lambda point: point.value)
    decision = enough_decision(found, best.share)
    assert decision.verdict is Verdict.UNDECIDED
    assert decision.difference.value >= 0
    assert decision.difference.low < -0.03 < decision.difference.high


@pytest.mark.parametrize("is_common", [True, False])
def test_a_relative_margin_is_a_fraction_of_what_the_image_contributes(is_common):
    scores, images = grid([0.35, 0.56, 0.6], num_images=4000)
    blind = (named_rng(0, "blind").random(scores.shape) < 0.2) * 1.0
    margin = RelativeMargin(fraction=0.25, blind=blind[0] if is_common else blind)
    found = sufficient_shares((0.0, 0.5, 1.0), scores, images, delta=margin, seed=0)
    assert found.delta == pytest.approx(0.25 * 0.4, abs=0.01)
    assert found.sufficient == (0.5, 1.0)
    assert enough_decision(found, 0.0).verdict is Verdict.REFUTED
    useless = sufficient_shares(
        (0.0, 0.5, 1.0), blind, images, delta=RelativeMargin(fraction=0.1, blind=scores[2]), seed=0
    )
    assert useless.sufficient == ()
    assert "does not exceed its blind score" in enough_decision(useless, 0.5).reason


def test_few_images_leave_the_share_undecided():
    scores, images = grid([0.3, 0.5, 0.55, 0.6, 0.6, 0.6], num_images=40)
    found = sufficient_shares(SHARES, scores, images, delta=0.01, seed=1)
    assert found.smallest is None
    assert found.detectable > 0.05
    scores, images = grid([0.1, 0.9], num_images=9)
    refused = sufficient_shares((0, 1), scores, images, delta=0.01, seed=1)
    assert refused.reason == "only 9 images: at least 10 are needed"
    assert refused.detectable is None
    decision = enough_decision(refused, 0)
    assert (decision.verdict, decision.reason) == (Verdict.UNDECIDED, refused.reason)
    assert decision.difference.low is None
    assert decision.clusters_needed == 10


@pytest.mark.slow
def test_the_interval_agrees_with_the_verdict_at_every_level():
    for seed in range(20):
        scores, images = grid([0.45, 0.47, 0.5, 0.5], num_images=150, seed=seed)
        found = sufficient_shares((0, 0.2, 0.4, 1), scores, images, delta=0.03, seed=0)
        for decision in apply_holm([enough_decision(found, share) for share in (0, 0.2, 0.4, 1)]):
            assert (decision.difference.low > -0.03) == (decision.verdict is Verdict.SUPPORTED)
            assert (decision.difference.high < -0.03) == (decision.verdict is Verdict.REFUTED)


def test_a_detectable_difference_is_detected_in_four_of_five_grids():
    scores, images = grid([0.5] * 3, num_images=200)
    gap = sufficient_shares((0, 0.5, 1), scores, images, delta=0.03, seed=0).detectable
    hits = 0
    for seed in range(200):
        scores, images = grid([0.5, 0.5 + gap], num_images=200, seed=seed + 1)
        by_image = (scores[1] - scores[0]).reshape(-1, 4).mean(axis=1)
        error = by_image.std(ddof=1) / np.sqrt(len(by_image))
        hits += abs(by_image.mean()) > 1.96 * error
    assert 0.7 < hits / 200 < 0.9


def test_the_curve_leaves_out_a_cell_of_another_regime():
    """A language collapse at 0 % bends a saturating curve; without it, the rest is a curve."""
    shares = np.array(SHARES)
    truths = 0.2 + 0.45 * (1 - np.exp(-shares / 0.3))
    truths[0] = 0.02
    scores, images = grid(truths, num_images=4000)
    bent = sufficient_shares(SHARES, scores, images, delta=0.03, seed=0)
    assert not bent.curve.is_adequate
    found = sufficient_shares(SHARES, scores, images, delta=0.03, seed=0, left_out_of_curve=(0.0,))
    assert found.curve.is_adequate
    assert found.points[0].next_gain is None
    gain, low, high = found.points[1].next_gain
    truth = 0.45 * (np.exp(-0.2 / 0.3) - np.exp(-0.3 / 0.3))
    assert low < truth < high
    assert gain == pytest.approx(truth, abs=0.02)


@pytest.mark.slow
def test_lack_of_fit_has_its_level_and_gains_their_coverage():
    shares = np.array(SHARES)
    truths = 0.2 + 0.4 * (1 - np.exp(-shares / 0.3))
    truth = 0.4 * (np.exp(-0.4 / 0.3) - np.exp(-0.5 / 0.3))
    rejected = covered = 0
    for seed in range(100):
        scores, images = grid(truths, num_images=300, seed=seed)
        curve = sufficient_shares(SHARES, scores, images, delta=0.03, seed=0).curve
        rejected += not curve.is_adequate
        covered += curve.gains[2][1] <= truth <= curve.gains[2][2]
    assert rejected <= 12
    assert covered >= 88


def test_wrong_decisions_are_rare_at_the_margin():
    """The first and the last row of finding H1: 17.7 % false refutations, 35.7 % false supports."""
    for truths, num_images in (
        ([0.3, 0.47, 0.5, 0.5, 0.5, 0.5], 373),
        ([0.3, 0.47, 0.5, 0.4, 0.4, 0.4], 35),
    ):
        supported = refuted = 0
        for seed in range(200):
            scores, images = grid(truths, num_images=num_images, seed=seed)
            comparison = ShareComparison(SHARES, scores, images, delta=0.03)
            supported += comparison.p_sufficient(1) <= 0.05
            refuted += comparison.p_insufficient(1) <= 0.05
        assert supported <= 20
        assert refuted <= 20


def test_invalid_input_is_an_error():
    with pytest.raises(DataError, match="at least two shares"):
        sufficient_shares((0.5,), np.zeros((1, 4)), list("abcd"), delta=0.03, seed=0)
    with pytest.raises(DataError, match="ascending order"):
        sufficient_shares((0.5, 0), np.zeros((2, 4)), list("abcd"), delta=0.03, seed=0)
    with pytest.raises(DataError, match="delta is 0"):
        sufficient_shares((0, 1), np.zeros((2, 4)), list("abcd"), delta=0, seed=0)
    margin = RelativeMargin(fraction=0.1, blind=np.zeros(3))
    with pytest.raises(DataError, match="blind scores of shape"):
        sufficient_shares((0, 1), np.zeros((2, 4)), list("abcd"), delta=margin, seed=0)
    found = sufficient_shares((0, 1), np.eye(2, 4), list("abcd"), delta=0.03, seed=0)
    assert found.points[0].next_gain is None
    with pytest.raises(DataError, match="has no cell"):
        enough_decision(found, 0.2)


def test_a_curve_without_any_share_is_none():
    scores, images = grid([0.05, 0.1, 0.1, 0.1, 0.1, 0.1])
    found = sufficient_shares(SHARES, scores, images, delta=0.03, seed=1, left_out_of_curve=SHARES)
    assert found.curve is None
