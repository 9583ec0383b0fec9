"""Claims about training recipes: variance components, intervals and decisions."""

import dataclasses
import math

import numpy as np
import pytest

from benchmarks.recipe_simulation import ComparisonLayout, SimulatedGrids, simulate_layouts
from core.errors import ConfigError, DataError
from core.rng import named_rng
from evaluation.statistics.decisions import RelativeMargin, Verdict
from evaluation.statistics.trainings.recipe_spread import RecipePairs
from evaluation.statistics.trainings.recipes import (
    SeedScores,
    TrainingVariance,
    recipe_decision,
    training_variance,
)
from evaluation.statistics.trainings.training_variance import difference_df

IMAGES = np.repeat(np.arange(120), 3)


def cell(name, num_seeds=3, *, accuracy=0.5, shifts=None, images=IMAGES):
    rng = named_rng(0, "recipe tests", name)
    ease = rng.uniform(-0.2, 0.2, images.max() + 1)[images]
    shifts = np.zeros(num_seeds) if shifts is None else np.asarray(shifts)
    chance = accuracy + ease + shifts[:, None]
    scores = (rng.random(chance.shape) < chance).astype(np.float64)
    return SeedScores(seeds=tuple(range(len(shifts))), scores_KI=scores, clusters=images)


def known(sd, *, df=8, noise=6e-4):
    return TrainingVariance(between=noise + sd**2, noise=noise, df=df, num_cells=2)


def test_scores_of_seeds_have_matching_shapes():
    with pytest.raises(DataError, match="2 seeds, 3 clusters and scores of shape"):
        SeedScores(seeds=(0, 1), scores_KI=np.zeros((3, 3)), clusters=np.arange(3))
    with pytest.raises(DataError, match="a seed occurs twice"):
        SeedScores(seeds=(1, 1), scores_KI=np.zeros((2, 3)), clusters=np.arange(3))


def test_training_variance_of_two_trainings_is_the_moment_estimate():
    """Half of the squared difference minus its clustered variance, as in the review's seedsd.py."""
    scores = cell("a", 2, shifts=(0.0, 0.1)).scores_KI
    found = training_variance(
        [SeedScores(seeds=(0, 1), scores_KI=scores, clusters=IMAGES), cell("single", 1)]
    )
    differences = scores[0] - scores[1]
    residuals = np.bincount(IMAGES, weights=differences - differences.mean())
    squared_se = (residuals**2).sum() * (120 / 119) / 360**2
    assert found.between - found.noise == pytest.approx((differences.mean() ** 2 - squared_se) / 2)
    assert (found.df, found.num_cells) == (1, 1)


def test_training_variance_pools_by_degrees_of_freedom():
    cells = [cell("a", 5), cell("b", 2), cell("c", 1)]
    parts = [training_variance([one]) for one in cells[:2]]
    both = training_variance(cells)
    assert both.df == 5
    assert both.between == pytest.approx((4 * parts[0].between + parts[1].between) / 5)
    assert both.noise == pytest.approx((4 * parts[0].noise + parts[1].noise) / 5)


def test_training_variance_needs_a_replicated_cell():
    assert training_variance([cell("a", 1), cell("b", 1)]) is None


def test_training_variance_is_unbiased():
    grids = SimulatedGrids(training_sd=2.0, num_images=100)
    found = []
    for at in range(150):
        scores, images = grids.draw(named_rng(1, "unbiased", at))
        cells = [SeedScores(seeds=(0, 1, 2), scores_KI=s[:3], clusters=images) for s in scores]
        variance = training_variance(cells)
        found.append(variance.between - variance.noise)
    assert np.mean(found) == pytest.approx(0.02**2, abs=4 * np.std(found) / math.sqrt(150))


def test_noise_of_items_is_counted_once():
    """The interval without training variance has the standard error over images."""
    first, second = cell("a"), cell("b")
    pairs = RecipePairs(first=[first], second=[second])
    exact = training_variance([first, second])
    expected = TrainingVariance(between=exact.noise, noise=exact.noise, df=4, num_cells=2)
    mean = pairs.spread().estimate(expected)
    assert mean.standard_error == pytest.approx(math.sqrt(pairs.spread().image_variance))


def test_training_variance_widens_the_interval_by_both_sides():
    first, second = cell("a", 3), cell("b", 1)
    pairs = RecipePairs(first=[first], second=[second]).spread()
    expected = pairs.image_variance + 0.02**2 * (1 / 3 + 1)
    assert pairs.estimate(known(0.02)).standard_error ** 2 == pytest.approx(expected)


def test_a_shared_cell_counts_once():
    first, other, shared = cell("a"), cell("b"), cell("c")
    copy = SeedScores(seeds=shared.seeds, scores_KI=shared.scores_KI.copy(), clusters=IMAGES)
    found = RecipePairs(first=[first, other], second=[shared, copy]).spread().estimate(known(0.05))
    image_part = RecipePairs(first=[first, other], second=[shared, shared]).spread().image_variance
    # The shared cell has the weight 1, the others 1/2 each.
    assert found.standard_error**2 == pytest.approx(image_part + 0.05**2 / 3 * (1 + 2 / 4))


def test_a_model_before_training_has_no_training_variance():
    before = dataclasses.replace(cell("b", 3), is_trained=False)
    spread = RecipePairs(first=[cell("a", 3)], second=[before]).spread()
    expected = spread.image_variance + 0.05**2 / 3
    assert spread.estimate(known(0.05)).standard_error ** 2 == pytest.approx(expected)


def test_unequal_seeds_of_several_pairs_assume_the_worst_correlation():
    """Shifts that are common to a seed would not cancel, nor average out over the pairs."""
    pairs = RecipePairs(first=[cell("a", 3), cell("b", 3)], second=[cell("c", 1), cell("d", 1)])
    own, excess = pairs.weights.coefficients()
    assert own == pytest.approx((1 / 3 + 1) / 2)
    assert own + excess == pytest.approx((1 - 1 / 3) ** 2 + 2 / 9)
    balanced = RecipePairs(first=[cell("a", 3), cell("b", 3)], second=[cell("c", 3), cell("d", 3)])
    assert balanced.weights.coefficients()[1] == 0


def test_degrees_of_freedom_lie_between_those_of_the_parts():
    assert difference_df(1.0, 4, 372) == pytest.approx(4)
    assert difference_df(0.0, 4, 372) == pytest.approx(372)
    assert 4 < difference_df(0.5, 4, 372) < 372
    # Satterthwaite's formula for many trainings.
    assert difference_df(0.5, 1e6, 1e6) == pytest.approx(2e6, rel=1e-3)


@pytest.mark.parametrize(
    ("variance", "images", "reason"),
    [
        (None, IMAGES, "every cell was trained with one seed"),
        (known(0.01, df=1), IMAGES, "one repeated training"),
        (known(0.01), np.repeat(np.arange(8), 3), "only 8 images: at least 10 are needed"),
    ],
)
def test_too_little_data_is_undecided_with_a_reason(variance, images, reason):
    first, second = cell("a", images=images), cell("b", images=images)
    found = recipe_decision([first], [second], variance, test="non_inferiority", delta=0.03)
    assert found.decision.verdict is Verdict.UNDECIDED
    assert reason in found.decision.reason
    assert (found.decision.difference.low, found.decision.difference.high) == (None, None)
    assert (found.more_seeds, found.more_images, found.df) == (None, None, None)


def test_equal_replies_are_undecided():
    first = cell("a")
    found = recipe_decision([first], [cell("a")], known(0.01), test="superiority", delta=0)
    assert found.decision.verdict is Verdict.UNDECIDED
    assert "the same everywhere" in found.decision.reason


@pytest.mark.parametrize(
    ("test", "accuracy", "verdict"),
    [
        ("non_inferiority", 0.5, Verdict.SUPPORTED),
        ("non_inferiority", 0.1, Verdict.REFUTED),
        ("equivalence", 0.5, Verdict.SUPPORTED),
        ("equivalence", 0.1, Verdict.REFUTED),
        ("equivalence", 0.9, Verdict.REFUTED),
        ("superiority", 0.9, Verdict.SUPPORTED),
        ("superiority", 0.1, Verdict.REFUTED),
    ],
)
def test_clear_differences_are_decided(test, accuracy, verdict):
    images = np.repeat(np.arange(400), 3)
    first = cell("a", accuracy=min(0.79, max(0.21, accuracy)), images=images)
    second = cell("b", images=images)
    found = recipe_decision([first], [second], known(0.01), test=test, delta=0.12)
    assert found.decision.verdict is verdict
    assert (found.more_seeds, found.more_images) == (0, 0)
    low, high = found.decision.difference.low, found.decision.difference.high
    assert found.decision.bounds_at(0.9) == pytest.approx((low, high))
    assert found.decision.bounds_at(0.99)[0] < low < high < found.decision.bounds_at(0.99)[1]


def test_an_unknown_test_or_margin_is_rejected():
    first, second = cell("a"), cell("b")
    with pytest.raises(ConfigError, match="unknown test 'better'"):
        recipe_decision([first], [second], known(0.01), test="better", delta=0.03)
    with pytest.raises(DataError, match="the margin delta is 0"):
        recipe_decision([first], [second], known(0.01), test="equivalence", delta=0)


def test_cells_must_have_the_same_items_and_form_pairs():
    first, second = cell("a"), cell("b", images=np.repeat(np.arange(100), 3))
    with pytest.raises(DataError, match="360 and 300 items"):
        RecipePairs(first=[first], second=[second])
    with pytest.raises(DataError, match="2 first and 1 second cells"):
        RecipePairs(first=[first, first], second=[first])


def test_a_relative_margin_has_an_error_of_its_own():
    first, second = cell("a"), cell("b")
    blind = 0.3 * named_rng(0, "blind").random(len(IMAGES))
    margin = RelativeMargin(fraction=0.3, blind=blind)
    found = recipe_decision([first], [second], known(0.01), test="non_inferiority", delta=margin)
    size = 0.3 * (second.scores_KI.mean(axis=0) - blind).mean()
    assert found.decision.delta == pytest.approx(size)
    fixed = recipe_decision([first], [second], known(0.01), test="non_inferiority", delta=size)
    assert found.decision.difference.value == pytest.approx(fixed.decision.difference.value)
    assert found.decision.difference.low != pytest.approx(fixed.decision.difference.low)
    nothing = RelativeMargin(fraction=0.3, blind=np.ones(len(IMAGES)))
    refused = recipe_decision([first], [second], known(0.01), test="equivalence", delta=nothing)
    assert "does not exist" in refused.decision.reason


def test_more_seeds_decide_a_claim_that_training_variance_leaves_open():
    first, second = cell("a", 2), cell("b", 2)
    variance = known(0.04)
    found = recipe_decision([first], [second], variance, test="non_inferiority", delta=0.08)
    assert found.decision.verdict is Verdict.UNDECIDED
    assert found.more_seeds > 1
    # Images alone do not help against the shifts of whole trainings.
    assert found.more_images is None
    spread = RecipePairs(first=[first], second=[second]).spread()
    planned = spread.estimate(variance, more_seeds=found.more_seeds)
    assert planned.standard_error < spread.estimate(variance).standard_error


def test_more_images_decide_a_claim_without_training_variance():
    first, second = cell("a", 2), cell("b", 2)
    found = recipe_decision([first], [second], known(0.0), test="non_inferiority", delta=0.04)
    assert found.decision.verdict is Verdict.UNDECIDED
    assert found.more_images > 100
    assert found.decision.clusters_needed == 120 + found.more_images


def test_a_recipe_is_never_surer_than_its_trained_models():
    """Means of trainings that agree by chance do not make the images agree."""
    first, second = cell("a"), cell("b")
    agreeing = TrainingVariance(between=0.0, noise=3e-4, df=40, num_cells=20)
    found = recipe_decision([first], [second], agreeing, test="non_inferiority", delta=0.05)
    models = RecipePairs(first=[first], second=[second]).spread(-0.05).of_models
    assert found.decision.p_supported >= models.tail_below(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("training_sd", [0.0, 1.0, 3.0])
def test_intervals_cover_other_trainings(training_sd):
    """H3: the interval of one seed, or of the mean over three, covers only 57 % at 3 points."""
    layouts = [
        ComparisonLayout(name="2 seeds", num_seeds=(2, 2, 2)),
        ComparisonLayout(name="3 seeds", num_seeds=(3, 3)),
        ComparisonLayout(name="one side", num_seeds=(5, 1)),
    ]
    grids = SimulatedGrids(training_sd=training_sd)
    for row in simulate_layouts(grids, layouts, 300):
        assert 0.91 <= row["coverage"]["rate"] <= 0.99, row
        assert row["false_support"]["rate"] <= 0.085, row
