"""Prediction-powered inference: unbiased for any judge, narrower for a good one."""

import numpy as np
import pytest

from benchmarks.judge_simulation import JudgeDesign, simulate_row
from core.errors import DataError
from evaluation.statistics.ratings.linearised import NO_RATER, Ratings
from evaluation.statistics.ratings.prediction_powered import powered_mean, ppi_mean


def draw(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return people's and the judge's values of 1,000 items."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([-1.0, 0.0, 1.0], 1000)
    return truth, np.clip(truth + noise * rng.standard_normal(1000) + 0.3, -1, 1)


IMAGES = np.arange(1000).astype(str)


def test_a_biased_judge_leaves_the_estimate_unbiased() -> None:
    values = [
        ppi_mean(judge, judge[:100], human[:100], IMAGES, IMAGES[:100]).value - human.mean()
        for human, judge in (draw(seed, 0.3) for seed in range(200))
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert abs(np.mean([judge.mean() - human.mean() for human, judge in [draw(0, 0.3)]])) > 0.1


def test_a_useless_judge_gets_no_weight_and_a_constant_one_neither() -> None:
    human, judge = draw(1, 0.3)
    ratings = Ratings(
        values_J=human[:100],
        items_J=np.arange(100),
        clusters_J=IMAGES[:100],
        raters_J=np.full(100, NO_RATER),
    )
    assert powered_mean(-judge, IMAGES, -judge[:100], ratings).power == 0.0
    constant = powered_mean(np.zeros(1000), IMAGES, np.zeros(100), ratings)
    assert constant.power == 0.0
    assert constant.linearisation.value == pytest.approx(human[:100].mean())
    assert powered_mean(judge, IMAGES, judge[:100], ratings).power > 0.7


def test_numbers_that_do_not_fit_are_rejected() -> None:
    human, judge = draw(4, 0.3)
    with pytest.raises(DataError, match="99 values for 100 items"):
        ppi_mean(judge, judge[:99], human[:100], IMAGES, IMAGES[:100])
    with pytest.raises(DataError, match="has to rate every item"):
        ppi_mean(judge[:50], judge[:100], human[:100], IMAGES[:50], IMAGES[:100])


@pytest.mark.slow
def test_intervals_with_a_good_judge_are_narrow_and_cover_the_truth() -> None:
    row = simulate_row(JudgeDesign(judge_noise=0.2), num_grids=200, seed=0)
    assert row["kappa"] > 0.5
    assert row["width_ratio"] <= 0.7
    assert 0.91 <= row["coverage"] <= 0.99
