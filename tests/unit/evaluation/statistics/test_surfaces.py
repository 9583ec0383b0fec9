"""Response surfaces on simulated cells and mixtures whose truth is known."""

import numpy as np
import pytest

from core.errors import DataError
from core.rng import named_rng
from evaluation.statistics.surfaces.axes import CellAxes
from evaluation.statistics.surfaces.cell_surface import Observed, SurfacePrior, fit_surface
from evaluation.statistics.surfaces.design import d_optimal, v_optimal
from evaluation.statistics.surfaces.mixture_surface import choose_mixtures, predict_losses

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CELLS = [{"text_only": text, "target_share": share} for text in (False, True) for share in SHARES]
TRUE = np.array([
    offset + (0.35 if share else 0.0) + 0.25 * (1 - np.exp(-share / 0.2))
    for offset in (0.1, 0.13)
    for share in SHARES
])  # fmt: skip


def observe(points, values, *, error=0.004, seed=0):
    """Return means whose errors are mostly shared, as those over the same items are."""
    covariance = error**2 * (0.7 + 0.3 * np.eye(len(points)))
    noise = named_rng(seed, "observed").multivariate_normal(np.zeros(len(points)), covariance)
    means = np.asarray(values)[list(points)] + noise
    return Observed(points=tuple(points), means_T=means, covariance_TT=covariance, df=999)


def test_axes_with_three_numbers_are_curves_and_others_are_groups():
    points = [
        {"share": share, "steps": steps, "text": text, "one": 1}
        for share in (0.0, 0.5, 1.0)
        for steps in (100, 200, 800)
        for text in (False, True)
    ]
    axes = CellAxes.of(points)
    assert set(axes.curves) == {"share", "steps"}
    assert set(axes.groups) == {"text"}
    assert sorted(set(axes.curves["share"])) == [0.0, 0.5, 1.0]
    assert sorted(set(axes.curves["steps"])) == pytest.approx([0.0, 1 / 3, 1.0])
    assert set(axes.zeros) == {"share"}
    with pytest.raises(DataError, match="differ on an axis"):
        CellAxes.of([{"share": 0.2}, {"share": 0.2}])


def test_missing_cells_are_predicted_within_their_intervals():
    prior = SurfacePrior.of(CellAxes.of(CELLS))
    points, hits = (0, 1, 3, 5, 7, 11), []
    for seed in range(40):
        shifts = 0.008 * named_rng(seed, "shift").standard_normal(len(CELLS))
        found = fit_surface(prior, observe(points, TRUE + shifts, seed=seed))
        for point in set(range(len(CELLS))) - set(points) - {6}:
            low, high = found.interval(np.eye(len(CELLS))[point], 0.9)
            hits.append(low <= TRUE[point] + shifts[point] <= high)
    assert 0.84 < np.mean(hits) < 0.995
    assert found.mean[[2, 4, 8]] == pytest.approx(TRUE[[2, 4, 8]], abs=0.03)


def test_errors_that_cells_share_do_not_blur_their_difference():
    """Generalised least squares: the variance of a paired difference is that of what is apart."""
    prior = SurfacePrior.of(CellAxes.of(CELLS))
    difference = np.zeros(len(CELLS))
    difference[[1, 3]] = 1, -1
    found = {}
    for shared in (0.0, 0.9):
        covariance = 0.01**2 * (shared + (1 - shared) * np.eye(4))
        observed = Observed(points=(0, 1, 3, 5), means_T=TRUE[[0, 1, 3, 5]],
                            covariance_TT=covariance, df=999)  # fmt: skip
        low, high = fit_surface(prior, observed).interval(difference, 0.9)
        found[shared] = high - low
    assert found[0.9] < 0.5 * found[0.0]


def test_the_fit_equals_generalised_least_squares_with_one_hypothesis():
    """For one hypothesis, the posterior is that of a linear model with normal coefficients."""
    whole = SurfacePrior.of(CellAxes.of(CELLS))
    prior = SurfacePrior(functions_HPP=whole.functions_HPP[:1], training_H=whole.training_H[:1],
                         mean=whole.mean)  # fmt: skip
    observed = observe((0, 2, 5, 8), TRUE)
    found = fit_surface(prior, observed)
    roots = np.linalg.cholesky(prior.values[0] + 1e-12 * np.eye(len(CELLS)))
    weights = np.linalg.inv(observed.covariance_TT)
    design = roots[list(observed.points)]
    precision = np.eye(len(CELLS)) + design.T @ weights @ design
    solved = np.linalg.solve(precision, design.T @ weights @ (observed.means_T - prior.mean))
    assert found.mean == pytest.approx(prior.mean + roots @ solved, abs=1e-6)
    expected = roots @ np.linalg.solve(precision, roots.T)
    assert found.covariance == pytest.approx(expected, abs=1e-7)


def test_a_d_optimal_set_takes_the_ends_of_a_line():
    positions = np.linspace(-1, 1, 9)
    features = np.stack([np.ones(9), positions], axis=1)
    assert set(d_optimal(features, 2, noise_variance=1e-4)) == {0, 8}
    assert d_optimal(features, 3, noise_variance=1e-4, given=[4])[0] == 4
    with pytest.raises(DataError, match="design of 10 cells"):
        d_optimal(features, 10, noise_variance=1e-4)


def test_a_design_for_a_slope_takes_the_ends_of_a_line():
    positions = np.linspace(-1, 1, 9)
    features = np.stack([np.ones(9), positions], axis=1)
    slope = (np.arange(9) == 8) - (np.arange(9) == 0).astype(float)
    chosen = v_optimal(features @ features.T, 2, noise_variance=1e-4, weights_KP=slope[None])
    assert set(chosen) == {0, 8}
    places = np.arange(9) // 8  # all but the upper end are at one place
    chosen = v_optimal(features @ features.T, 3, noise_variance=1e-4, places_P=places)
    assert (8 in chosen[:2], len(set(chosen))) == (True, 3)
    with pytest.raises(DataError, match="design of 10 cells"):
        v_optimal(features @ features.T, 10, noise_variance=1e-4)


def test_points_that_differ_in_groups_only_are_at_one_place():
    places = CellAxes.of(CELLS).places
    assert (places[:6] == places[6:]).all()
    assert len(set(places)) == len(SHARES)


def test_a_v_optimal_set_leaves_less_variance_than_random_ones():
    rng = named_rng(0, "kernel")
    root = rng.standard_normal((40, 6))
    kernel = root @ root.T

    def variance(points):
        known = kernel[np.ix_(points, points)] + 0.1 * np.eye(len(points))
        return np.trace(kernel - kernel[:, points] @ np.linalg.solve(known, kernel[points]))

    chosen = v_optimal(kernel, 5, noise_variance=0.1)
    assert len(set(chosen)) == 5
    random = [variance(list(rng.permutation(40)[:5])) for _ in range(50)]
    assert variance(chosen) < min(random)


def test_losses_of_mixtures_are_predicted_from_sixteen_runs():
    rng = named_rng(0, "mixtures")
    shares = rng.dirichlet(np.full(8, 0.4), size=200)
    effect = rng.uniform(0.0, 0.1, 8)
    losses = np.exp(1.6 - 0.12 * np.log(shares[:, 2] + 0.01) - shares @ effect)
    losses *= np.exp(0.01 * rng.standard_normal(200))
    chosen = choose_mixtures(shares[:100], 16)
    found = predict_losses(shares[chosen], losses[chosen], shares[100:], own=2)
    new = losses[100:]
    assert np.corrcoef(found.losses, new)[0, 1] > 0.95
    best = new[found.losses.argmin()] - new.min()
    assert best < 0.05 * (np.median(new) - new.min())
    low, high = found.intervals(0.95)
    assert 0.88 <= ((low <= new) & (new <= high)).mean() <= 1.0
    assert found.levels(low) == pytest.approx(0.025, abs=1e-6)


def test_mixtures_that_are_no_shares_are_refused():
    shares = np.full((5, 2), 0.5)
    with pytest.raises(DataError, match="add up to 1"):
        predict_losses(shares + 0.2, np.ones(5), shares)
    with pytest.raises(DataError, match="at least 4 runs"):
        predict_losses(shares[:3], np.ones(3), shares)
