"""Sequential grids on simulated surfaces with known truth."""

import dataclasses

import numpy as np
import pytest

from benchmarks.sequential.surfaces import Benchmark, axes, draw_observations, draw_values
from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.decisions import Verdict, non_inferiority
from evaluation.statistics.sequential.choice import expected_reductions
from evaluation.statistics.sequential.claims import (
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Allowance,
    mean_difference,
    within_best,
)
from evaluation.statistics.sequential.forecast import equal_errors, forecast, run_study
from evaluation.statistics.sequential.item_errors import ItemErrors
from evaluation.statistics.sequential.study import SequentialStudy
from evaluation.statistics.surfaces.axes import CellAxes
from evaluation.statistics.surfaces.cell_surface import Observed

NUMBER = 12
CLAIMS = (
    within_best("enough", [1], [[0], [2], [3], [4], [5]], NUMBER, Allowance(kept=0.9)),
    mean_difference(
        "text", [[p] for p in range(6, 12)], [[p] for p in range(6)], NUMBER, Allowance()
    ),
)
BENCHMARK = Benchmark(num_clusters=4000, error=0.006, correlation=0.55)


def study(**changes):
    fields = {"axes": CellAxes.of(axes()), "claims": CLAIMS, "costs": lambda _point, _trained: 1.0,
              **changes}  # fmt: skip
    return SequentialStudy(**fields)


def test_verdicts_of_contrasts_are_those_of_paired_tests():
    rng = named_rng(3, "scores")
    scores = (rng.random((2, 4000)) < np.array([[0.5], [0.5]])).astype(float)
    images = np.repeat(np.arange(1000), 4)
    expected = non_inferiority(scores[0], scores[1], images, delta=0.03, seed=0)
    means = scores.mean(axis=1)
    sums = scores.reshape(2, 1000, 4).mean(axis=2)
    covariance = np.cov(sums) / 1000
    claim = mean_difference("a", [[0]], [[1]], 2, Allowance(margin=0.03))
    below = claim.tails_below(means[None], covariance, 999)[0, 0]
    assert below == pytest.approx(expected.p_supported, rel=0.05)


@pytest.mark.parametrize(
    ("difference", "expected"), [(0.0, SUPPORTED), (0.1, REFUTED), (0.04, UNDECIDED)]
)
def test_an_equivalence_claim_has_two_sides(difference, expected):
    claim = mean_difference("a", [[0]], [[1]], 2, Allowance(margin=0.05, is_two_sided=True))
    covariance = equal_errors(2, 0.01**2, 0.0)
    for sign in (-1, 1):
        means = np.array([[0.5 + sign * difference, 0.5]])
        assert claim.verdicts(means, covariance, 999, 0.05)[0] == expected


def test_the_value_of_a_cell_is_what_it_tells_about_the_verdict():
    rng = named_rng(0, "value")
    means = rng.standard_normal((1024, 2))
    verdicts = np.where(means[:, 0] > 0, SUPPORTED, REFUTED)
    reductions = expected_reductions(means, verdicts)
    assert reductions[0] == pytest.approx(0.5, abs=0.05)
    assert abs(reductions[1]) < 0.12


def test_errors_of_new_cells_follow_those_of_trained_ones():
    covariance = equal_errors(3, 0.02**2, 0.6)
    observed = Observed(points=(0, 1, 2), means_T=np.full(3, 0.5), covariance_TT=covariance, df=99)
    errors = ItemErrors.of(observed, 5)
    assert errors.covariance_PP == pytest.approx(equal_errors(5, 0.02**2, 0.6), abs=1e-9)
    values = np.full((4000, 5), 0.48)  # every trained cell was 2 points lucky
    means = errors.draw_means(values, named_rng(0, "means"))
    assert means[:, 3].mean() == pytest.approx(0.48 + 0.02 * 3 * 0.6 / 2.2, abs=0.001)


def test_clear_surfaces_are_decided_early_and_as_by_the_full_grid():
    """A plateau from 20 % on and a text effect of 8 points need no more than half of the cells."""
    shares = np.array([0.1, 0.5, 0.5, 0.5, 0.5, 0.5])
    values = np.concatenate([shares, shares + 0.08])
    found = study()
    start = found.start(noise_variance=BENCHMARK.error**2)
    means, covariance = draw_observations(named_rng(0, "clear"), values, BENCHMARK)
    outcome = run_study(found, means, covariance, df=3999, start=start)
    assert len(outcome.trained) <= NUMBER // 2
    assert outcome.verdicts == {"enough": Verdict.SUPPORTED, "text": Verdict.SUPPORTED}


def test_a_complete_grid_gets_the_verdicts_of_the_paired_tests():
    found = study(certainties=(1.0, 1.0))  # never closed early, except by its own cells
    values = draw_values(named_rng(5, "truth"))
    means, covariance = draw_observations(named_rng(6, "noise"), values, BENCHMARK)
    outcome = run_study(found, means, covariance, df=3999, start=range(NUMBER))
    for claim in CLAIMS:
        number = claim.verdicts(means[None], covariance, 3999, found.last_alpha)[0]
        expected = (Verdict.SUPPORTED, Verdict.REFUTED, Verdict.UNDECIDED)[number]
        assert outcome.verdicts[claim.name] is expected


def test_the_level_is_divided_between_claims_and_looks():
    found = study()
    spent = len(CLAIMS) * (NUMBER * found.early_alpha + found.last_alpha)
    assert spent == pytest.approx(found.alpha)


def look_at(found, values, points, *, error=0.002):
    """Return a look at some cells with the measured means `values`."""
    covariance = equal_errors(len(points), error**2, 0.5)
    observed = Observed(points=tuple(points), means_T=np.asarray(values)[list(points)],
                        covariance_TT=covariance, df=3999)  # fmt: skip
    return found.look(observed)


def test_a_verdict_that_trained_cells_imply_is_closed():
    """A share that is clearly better refutes the claim, whatever the other cells measure."""
    found = study(claims=CLAIMS[:1])
    values = np.array([0.1, 0.4, 0.41, 0.42, 0.43, 0.5] * 2)
    look = look_at(found, values, (1, 5))
    assert look.claims[0].closed is Verdict.REFUTED
    assert look.claims[0].forecast[Verdict.REFUTED] == 1.0
    assert look.is_decided


def test_support_waits_for_a_cell_at_every_compared_share():
    """Cells with text-only data count, since both settings share their peaks."""
    found = study(claims=CLAIMS[:1])
    values = np.array([0.1, 0.5, 0.5, 0.5, 0.5, 0.5] * 2)
    look = look_at(found, values, (0, 1, 2, 4, 5))
    state = look.claims[0]
    assert state.forecast[Verdict.SUPPORTED] > found.certainties[0]
    assert state.closed is None
    assert {one.point for one in look.candidates if one.is_required} == {3, 9}
    assert look.candidates[0].is_required
    assert look_at(found, values, (0, 1, 2, 4, 5, 9)).claims[0].closed is Verdict.SUPPORTED


def test_the_start_set_compares_what_the_claims_compare():
    start = study(claims=CLAIMS[:1]).start(noise_variance=0.006**2)
    assert len(start) == 2
    assert 1 in start
    assert max(start) < 6  # nothing is claimed about cells with text-only data
    assert len(study(num_start=5).start(noise_variance=0.006**2)) == 5


def test_a_forecast_is_reproducible_and_cheap_cells_come_first():
    cheap = study(costs=lambda point, _trained: 0.01 if point == 9 else 100.0)
    covariance = equal_errors(NUMBER, 0.006**2, 0.5)
    first = [one.trained for one in forecast(cheap, covariance, df=999, number=3)]
    assert first == [one.trained for one in forecast(cheap, covariance, df=999, number=3)]
    start = cheap.start(noise_variance=0.006**2)
    assert 9 in start or any(run[len(start) : len(start) + 1] == (9,) for run in first)


def test_cells_beyond_the_budget_are_no_candidates():
    found = study()
    means, covariance = draw_observations(
        named_rng(0, "noise"), draw_values(named_rng(1, "truth")), BENCHMARK
    )
    start = found.start(noise_variance=BENCHMARK.error**2)
    observed = Observed(points=tuple(start), means_T=means[start],
                        covariance_TT=covariance[np.ix_(start, start)], df=3999)  # fmt: skip
    assert not found.look(observed, affordable=0.5).candidates
    with pytest.raises(DataError, match="start set of 1"):
        dataclasses.replace(found, num_start=1)
