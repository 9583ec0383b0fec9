"""Sufficient shares on simulated grids whose truth is known."""

import numpy as np
import pytest

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.sufficiency import smallest_sufficient_share

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
    found = smallest_sufficient_share(SHARES, scores, images, delta=0.03, seed=1)
    assert found.smallest == 0.4
    assert [round(point.value, 1) for point in found.points] == pytest.approx(truths, abs=0.06)
    assert found.points[1].sufficient < 0.05
    assert found.points[0].next_gain[0] > 0.2
    assert abs(found.points[-1].next_gain[0]) < 0.01
    for point in found.points:
        low, high = point.next_gain[1:]
        assert low <= point.next_gain[0] <= high
        assert point.low < point.value < point.high


def test_few_images_leave_the_share_undecided():
    scores, images = grid([0.3, 0.5, 0.55, 0.6, 0.6, 0.6], num_images=40)
    found = smallest_sufficient_share(SHARES, scores, images, delta=0.01, seed=1)
    assert found.smallest is None
    assert found.detectable > 0.05


def test_a_detectable_difference_is_detected_in_four_of_five_grids():
    scores, images = grid([0.5] * 3, num_images=200)
    gap = smallest_sufficient_share((0, 0.5, 1), scores, images, delta=0.03, seed=0).detectable
    hits = 0
    for seed in range(200):
        scores, images = grid([0.5, 0.5 + gap], num_images=200, seed=seed + 1)
        by_image = (scores[1] - scores[0]).reshape(-1, 4).mean(axis=1)
        error = by_image.std(ddof=1) / np.sqrt(len(by_image))
        hits += abs(by_image.mean()) > 1.96 * error
    assert 0.7 < hits / 200 < 0.9


@pytest.mark.slow
def test_confidence_is_calibrated_at_the_margin():
    """A share that is worse by exactly the margin is rarely called sufficient."""
    called = 0
    for seed in range(150):
        scores, images = grid([0.57, 0.6], num_images=150, seed=seed)
        found = smallest_sufficient_share((0.5, 1.0), scores, images, delta=0.03, seed=seed)
        called += found.smallest == 0.5
    assert called / 150 < 0.1


def test_invalid_shapes_are_errors():
    with pytest.raises(DataError, match="at least two shares"):
        smallest_sufficient_share((0.5,), np.zeros((1, 4)), list("abcd"), delta=0.03, seed=0)
    found = smallest_sufficient_share((0, 1), np.eye(2, 4), list("abcd"), delta=0.03, seed=0)
    assert found.points[0].next_gain is None
