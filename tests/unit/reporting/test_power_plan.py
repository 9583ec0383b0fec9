"""Power of claims before training, and the published registration."""

from pathlib import Path

import pytest
import yaml
from rich.console import Console

from configuration.grid_request import GridRequest
from core.errors import ConfigError
from experiments.run_steps.planning import make_plan
from experiments.run_steps.registering import assumed_variances, planned_claims, register_grid
from reporting.claims import preregistration
from reporting.claims.power.pilot import ClaimAssumptions
from reporting.claims.power.power_plan import PlannedClaim
from reporting.dry_run.claims import show_claims
from tests.support.scored_grid import scored_grid, sees, three_shares

pytestmark = pytest.mark.slow
"""Every test builds a report or decides claims."""

_NAME = "registered"


def _claims(root: Path, *replicate: str) -> dict[str, PlannedClaim]:
    request = GridRequest(
        experiment="mix_ablation", replicate=replicate, root=root, is_dry_run=True, name=_NAME
    )
    return {claim.name: claim for claim in _planned(request)}


def _planned(request: GridRequest) -> list[PlannedClaim]:
    return planned_claims(request, make_plan(request), assumed_variances(request))


def test_power_grows_with_seeds_and_needs_them_for_recipes(tmp_path: Path) -> None:
    alone = _claims(tmp_path)["text_only"]
    repeated = _claims(tmp_path, "text_only=true=3", "text_only=false=3")["text_only"]
    assert alone.models is not None
    assert repeated.models is not None
    assert alone.recipe is not None
    assert repeated.recipe is not None
    assert alone.recipe.power == 0.0  # nothing is known about other trainings
    assert repeated.recipe.power > 0.05
    assert repeated.models.power > alone.models.power
    assert (alone.num_seeds, repeated.num_seeds, alone.num_pairs) == (1, 3, 6)


def test_a_claim_names_benchmark_metric_cells_and_margin(tmp_path: Path) -> None:
    claims = _claims(tmp_path)
    kept = claims["base_language_kept"]
    benchmark = "benchmark_test"
    assert kept.detail.startswith("questions in en; ")
    assert benchmark in kept.detail
    assert "20\N{NO-BREAK SPACE}% minus 0\N{NO-BREAK SPACE}%, mean over 2 pairs" in kept.detail
    assert kept.detail.endswith("margin: 3 points of accuracy")
    request = GridRequest(experiment="mix_ablation", root=tmp_path, is_dry_run=True, name=_NAME)
    found = [c for c in _planned(request) if c.name == "enough"]
    labelled = [claim.text for claim in found if claim.models is not None]
    assert len(labelled) == len(set(labelled)) == 6  # two settings, three kinds
    assert any("without text-only data, vqa" in text for text in labelled)


def test_claims_that_do_not_apply_have_a_reason(tmp_path: Path) -> None:
    claims = _claims(tmp_path)
    assert "it is 0.8" in claims["zero_enough"].reason
    assert claims["alignment"].models is None
    contrast = claims["open_and_closed_alike"]
    assert contrast.size is not None
    assert contrast.size.spread > 1.9  # a difference of two means


def test_a_registration_is_published_once_and_used_by_the_grid(tmp_path: Path) -> None:
    request = GridRequest(
        experiment="mix_ablation", replicate=("share20=3",), root=tmp_path, name=_NAME
    )
    console = Console(width=200, record=True)
    path = register_grid(request, make_plan(request), console)
    published = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len(published["cells"]) == 12 + 4
    assert published["benchmarks"]
    assert published["hypotheses"]["enough"]["relative_margin"] == 0.1
    assert any(claim.get("power_models") for claim in published["power"])
    assert "What each claim could show" in console.export_text()
    registration = preregistration.register(path.parent)  # the start of the grid
    assert registration.to_json() == published["registration"]
    with pytest.raises(ConfigError, match="never replaced"):
        register_grid(request, make_plan(request), console)


def test_variances_are_measured_on_finished_cells_of_the_grid(tmp_path: Path) -> None:
    request = GridRequest(experiment="mix_ablation", root=tmp_path, is_dry_run=True)
    assert assumed_variances(request) == ClaimAssumptions()
    scored_grid(tmp_path, sees(0.6, 0.1), cells=three_shares((0, 1)))
    measured = assumed_variances(request)
    assert measured.num_cells == 6
    assert measured.score.sd_item_difference == pytest.approx((2 * 0.6 * 0.4) ** 0.5, abs=0.05)
    assert measured.attributable.sd_item_difference > measured.score.sd_item_difference
    console = Console(width=200, record=True)
    show_claims(console, planned_claims(request, make_plan(request), measured), measured)
    text = console.export_text()
    assert "measured on 6 finished cells of this grid" in text
    assert "benchmark_test: vqa, minus the score without the image" in text
