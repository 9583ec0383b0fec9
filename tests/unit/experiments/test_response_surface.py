"""The designed response surface: its cells, its claims, and the surface through four axes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configuration.axes import GridCell, name_cells
from configuration.run_config import RunConfig
from core.config import load_config
from core.errors import ConfigError
from evaluation.statistics.surfaces.axes import CellAxes
from evaluation.statistics.surfaces.cell_surface import Observed, SurfacePrior, fit_surface
from evaluation.statistics.surfaces.design import d_optimal
from experiments.grids import response_surface
from reporting.claims.claim_cells import select_cells
from reporting.claims.preregistration import combine_hypotheses
from reporting.settings import configured_axes

_VARIED = ("target_samples", "base_samples", "instruct.num_steps", "text_only")
_CONFOUNDED = ("more_target_same_total", "more_target_same_base", "lower_share_same_target")


def _cells(*overrides: str) -> list[GridCell]:
    base = load_config(RunConfig, Path("configs/embedded.yaml"), overrides=overrides)
    return name_cells(response_surface.cells(base))


def _points(cells: list[GridCell]) -> list[dict[str, Any]]:
    return [dict(configured_axes(cell.axes)) for cell in cells]


def test_every_amount_has_three_values_in_sixteen_cells() -> None:
    axes = CellAxes.of(_points(_cells()))
    assert axes.num_points == 16
    assert axes.curves.keys() == {*_VARIED[:3]}
    assert axes.groups.keys() == {"text_only"}
    for place_P in axes.curves.values():
        assert len({*place_P.tolist()}) == 3
        assert place_P.min() == 0
        assert place_P.max() == 1


def test_every_claim_about_an_amount_has_five_pairs() -> None:
    cells = _cells()
    planned = [configured_axes(cell.axes) for cell in cells]
    found = combine_hypotheses(response_surface.hypotheses).hypotheses
    own = [name for name, one in response_surface.hypotheses.items() if not isinstance(one, str)]
    for name in own:
        groups = select_cells(found[name], planned, {})
        assert [len(group.pairs) for group in groups] == [5, 1], name
        for group in groups:
            assert group.first > group.second
            for first, second in group.pairs:
                differing = {key for key, value in first if dict(second)[key] != value}
                assert differing == {found[name].axis}
    for name in _CONFOUNDED:
        assert "the experiment leaves it out" in select_cells(found[name], planned, {})
    others = {
        name for name, one in found.items() if not isinstance(select_cells(one, planned, {}), str)
    }
    assert others == {*own, "text_only", "text_only_text"}


def test_the_design_leaves_little_more_uncertainty_than_a_d_optimal_one() -> None:
    """It gives up some for cells that differ in one axis alone."""
    chosen = _points(_cells())
    values = [sorted({point[name] for point in chosen}) for name in _VARIED]
    every = [dict(zip(_VARIED, (a, b, c, d), strict=True)) for a in values[0] for b in values[1]
             for c in values[2] for d in values[3]]  # fmt: skip
    prior = SurfacePrior.of(CellAxes.of(every))
    sizes_P, vectors_PP = np.linalg.eigh(prior.functions_HPP.mean(axis=0))
    features_PF = vectors_PP * np.sqrt(np.maximum(sizes_P, 0))
    noise = 0.016**2 + float(prior.training_H.mean())

    def information(points: list[int]) -> float:
        rows = features_PF[points]
        return float(np.linalg.slogdet(np.eye(len(every)) + rows.T @ rows / noise)[1])

    own = [every.index({name: point[name] for name in _VARIED}) for point in chosen]
    best = d_optimal(features_PF, len(own), noise_variance=noise)
    efficiency = np.exp((information(own) - information(best)) / len(own))
    assert 0.8 < efficiency <= 1.0


def test_the_surface_predicts_withheld_cells_of_another_family() -> None:
    """Effects that add up in log-odds, of which the surface knows nothing."""
    points, rng = _points(_cells()), np.random.default_rng(0)
    prior, number = SurfacePrior.of(CellAxes.of(points)), len(points)
    curves = CellAxes.of(points).curves
    has_text_P = np.array([point["text_only"] for point in points], dtype=float)
    covariance_PP = 0.016**2 * (0.6 + 0.4 * np.eye(number))
    inside, errors = list[bool](), list[float]()
    for _ in range(5):
        odds_P = rng.uniform(-2, -1) + rng.uniform(0, 0.4) * has_text_P
        for place_P, most in zip(curves.values(), (1.5, 0.4, 1.2), strict=True):
            odds_P = odds_P + rng.uniform(0, most) * -np.expm1(-place_P / rng.uniform(0.3, 2))
        values_P = 1 / (1 + np.exp(-odds_P)) + 0.01 * rng.standard_normal(number)
        measured_P = rng.multivariate_normal(values_P, covariance_PP)
        for point in range(number):
            kept = [at for at in range(number) if at != point]
            observed = Observed(points=tuple(kept), means_T=measured_P[kept],
                                covariance_TT=covariance_PP[np.ix_(kept, kept)],
                                df=300)  # fmt: skip
            found = fit_surface(prior, observed)
            low, high = found.interval(np.eye(number)[point], 0.9)
            inside.append(bool(low <= values_P[point] <= high))
            errors.append(abs(float(found.mean[point] - values_P[point])))
    assert np.mean(inside) >= 0.85
    assert np.mean(errors) < 0.035


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cell.stages=align_only", "cell.stages=align_only; set it to both"),
        ("instruct.num_steps=1", "at least 12 images and 3 steps"),
    ],
)
def test_a_stage_that_is_too_short_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _cells(override)
