"""Power of claims against simulation, and designs that reach it."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from benchmarks.recipe_simulation import SimulatedGrids, simulate_power
from core.errors import ConfigError, DataError
from core.rng import named_rng
from evaluation.statistics.claim_tests import (
    ClaimTest,
    StudentDifference,
    claim_bounds,
    decision_power,
)
from evaluation.statistics.trainings.power import (
    ClaimPlan,
    cheapest_design,
    claim_power,
    describe_power,
)
from evaluation.statistics.trainings.power_assumptions import PowerAssumptions, measure_assumptions
from evaluation.statistics.trainings.recipes import SeedScores

PLAN = ClaimPlan(
    num_images=373, items_per_image=3, num_seeds=3, test=ClaimTest.NON_INFERIORITY, delta=0.03
)


@pytest.mark.parametrize("test", list(ClaimTest))
@pytest.mark.parametrize("df", [2.0, 4.5, 30.0, 1e5])
@pytest.mark.parametrize("is_support", [True, False])
def test_decision_power_equals_simulated_t_tests(test, df, is_support):
    value, se, delta = 0.012, 0.011, 0.03
    rng = named_rng(0, "power", str(test))
    means = value + se * rng.standard_normal(100_000)
    reach = stats.t.isf(0.05, df) * se * np.sqrt(rng.chisquare(df, 100_000) / df)
    low, high = claim_bounds(test, delta)
    if is_support:
        hits = (means - reach > low) & (means + reach < high)
    else:
        hits = (means + reach < low) | (means - reach > high)
    mean = StudentDifference(value=value, standard_error=se, df=df)
    found = decision_power(mean, test=test, delta=delta, is_support=is_support)
    assert found == pytest.approx(hits.mean(), abs=0.006)


def test_power_grows_with_everything_that_helps():
    base = PLAN.power
    for change in ({"num_images": 700}, {"num_seeds": 5}, {"delta": 0.05}, {"training_sd": 0.005}):
        assert dataclasses.replace(PLAN, **change).power > base
    for change in ({"num_claims": 6}, {"true_difference": -0.01}, {"sd_item_difference": 0.7}):
        assert dataclasses.replace(PLAN, **change).power < base


def test_a_recipe_needs_replicates_and_trained_models_do_not():
    assert dataclasses.replace(PLAN, num_seeds=1).power == 0
    assert dataclasses.replace(PLAN, num_seeds=1).detectable is None
    assert dataclasses.replace(PLAN, num_seeds=1, training_df=4).power > 0
    models = dataclasses.replace(PLAN, num_seeds=1, training_sd=None)
    assert models.df == 372
    # One-sided z test: 0.51^2 * 1.13 / 1119.
    assert models.power == pytest.approx(
        stats.norm.cdf(0.03 / (0.51 * (1.13 / 1119) ** 0.5) - 1.645), abs=0.005
    )


def test_claim_power_takes_the_fields_of_a_plan():
    assert claim_power(**dataclasses.asdict(PLAN)) == PLAN.power
    with pytest.raises(ConfigError, match="noise_share is 2"):
        claim_power(**dataclasses.asdict(PLAN) | {"noise_share": 2})
    with pytest.raises(ConfigError, match="unknown test 'better'"):
        claim_power(**dataclasses.asdict(PLAN) | {"test": "better"})


def test_detectable_difference_has_the_power_of_a_design():
    detectable = PLAN.detectable
    at_edge = dataclasses.replace(PLAN, true_difference=-0.03 + detectable)
    assert at_edge.power == pytest.approx(0.8, abs=1e-3)


def test_cheapest_design_reaches_the_power_and_no_smaller_one_does():
    design = cheapest_design(PLAN)
    chosen = dataclasses.replace(PLAN, num_images=design.num_images, num_seeds=design.num_seeds)
    assert chosen.power == design.power >= 0.8
    fewer = dataclasses.replace(chosen, num_seeds=design.num_seeds - 1)
    assert fewer.power < 0.8 or fewer.num_images > PLAN.num_images
    many_images = cheapest_design(PLAN, seed_cost=1e6)
    assert many_images.num_seeds < design.num_seeds
    assert many_images.num_images > design.num_images


def test_a_false_claim_has_no_design():
    assert cheapest_design(dataclasses.replace(PLAN, true_difference=-0.03)) is None


def test_describe_power_summarises_a_plan():
    summary = describe_power(PLAN)
    assert summary.power == PLAN.power
    assert summary.detectable == PLAN.detectable
    assert summary.cheapest == cheapest_design(PLAN)


def test_assumptions_are_measured_on_a_finished_grid():
    grids = SimulatedGrids(training_sd=2.0, num_images=2000, deficit=0.0)
    scores, images = grids.draw(named_rng(0, "assumptions"))
    cells = [SeedScores(seeds=tuple(range(5)), scores_KI=s, clusters=images) for s in scores]
    found = measure_assumptions(cells)
    # Variances of the simulated items: 2 * 0.08^2 between cells and 2 * 0.2112 of single answers.
    assert found.sd_item_difference == pytest.approx(0.66, abs=0.01)
    assert found.intra_image_correlation == pytest.approx(0.0128 / 0.435, abs=0.02)
    assert found.noise_share == pytest.approx(0.92, abs=0.05)
    assert found.training_sd == pytest.approx(0.02, abs=0.007)
    plan = dataclasses.replace(PLAN, **dataclasses.asdict(found))
    assert plan.training_sd == found.training_sd


def test_assumptions_without_replicates_have_defaults():
    scores = named_rng(0, "single").random((2, 30))
    cells = [SeedScores(seeds=(0,), scores_KI=s[None], clusters=np.arange(30)) for s in scores]
    found = measure_assumptions(cells)
    default = PowerAssumptions()
    assert (found.noise_share, found.training_sd) == (default.noise_share, default.training_sd)
    assert found.sd_item_difference == pytest.approx((scores[0] - scores[1]).std())
    assert found.intra_image_correlation == 0
    with pytest.raises(DataError, match="1 cells"):
        measure_assumptions(cells[:1])


@pytest.mark.slow
def test_predicted_power_equals_the_share_of_supported_claims():
    for row in simulate_power(200):
        assert row["predicted"] == pytest.approx(row["simulated"], abs=0.1), row
