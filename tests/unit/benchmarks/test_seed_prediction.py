"""Prediction of left-out trainings."""

import numpy as np
import pytest

from benchmarks.seed_prediction import leave_one_out
from core.rng import named_rng
from evaluation.statistics.trainings.training_variance import SeedScores


def grid_cells(seed, *, num_seeds=4, training_sd=0.03):
    """Return two cells whose trainings differ by a normal shift."""
    rng = named_rng(seed, "cells")
    images_I = np.repeat(np.arange(60), 3)
    cells = {}
    for name in ("a", "b"):
        chance_KI = 0.5 + training_sd * rng.normal(size=(num_seeds, 1)) + np.zeros(len(images_I))
        scores_KI = (rng.random(chance_KI.shape) < chance_KI) * 1.0
        cells[name] = SeedScores(
            seeds=tuple(range(num_seeds)), scores_KI=scores_KI, clusters=images_I
        )
    return cells


def test_95_percent_of_the_trainings_are_predicted():
    found = [one for grid in range(100) for one in leave_one_out("m", grid_cells(grid))]
    assert len(found) == 100 * 2 * 4
    share = np.mean([one.is_inside for one in found])
    assert 0.93 < share < 0.97


def test_the_interval_does_not_use_the_training_that_it_predicts():
    cells = grid_cells(0)
    before = next(leave_one_out("m", cells))
    cells["a"].scores_KI[0] = 1.0
    after = next(leave_one_out("m", cells))
    assert (after.low, after.high) == (before.low, before.high)
    assert after.score == pytest.approx(100)
    assert not after.is_inside


def test_two_trainings_predict_nothing():
    assert not list(leave_one_out("m", grid_cells(0, num_seeds=2)))
