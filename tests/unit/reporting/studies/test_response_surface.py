"""The report's section about a response surface, and advice from the same grid."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.grids.response_surface import DESIGN
from reporting.records import load_grid
from reporting.sections.tables import score_table
from reporting.sequential.advice import Advisor, Prices
from reporting.sequential.grid_surface import GridSurface
from reporting.series import MAIN_PANEL, lines, view_of
from reporting.studies.response_surface import section
from tests.support import fake_grid
from tests.support.scored_grid import Scorer, scored_grid

_STEPS = "instruct.num_steps"


def _cells(num_seeds: int = 1) -> list[dict[str, Any]]:
    return [
        {"target_share": target / (target + base), "text_only": has_text, "backbone": "general",
         "stages": "both", "seed": seed, "target_samples": 100 * target, "base_samples": 100 * base,
         _STEPS: 300 * steps}
        for target, base, steps, has_text in DESIGN
        for seed in range(num_seeds)
    ]  # fmt: skip


def _law(axes: dict[str, Any]) -> float:
    """Images in the target language and steps help, those in the base language do not."""
    value = 0.2 + 0.15 * np.log2(axes["target_samples"] / 100) + 0.0001 * (axes[_STEPS] - 300)
    return float(value + 0.1 * axes["text_only"])


def _score(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
    return float(rng.random() < _law(axes)), 0.0


def _grid(root: Path, scorer: Scorer | None = _score, num_seeds: int = 1) -> Any:
    return scored_grid(root, scorer, cells=_cells(num_seeds))


@pytest.mark.slow
def test_effects_and_withheld_cells_are_shown(tmp_path: Path) -> None:
    grid, view = _grid(tmp_path)
    found = section(grid, view)
    assert found is not None
    assert "of 16 withheld cells are inside" in found.sentences[0]
    titles = [figure.title.removeprefix("Accuracy over ") for figure in found.figures]
    assert titles == [
        "instruct.num_steps", "target-language images", "base-language images",
        "share of the target language among 400 images",
        "images in total, half of them in the target language",
    ]  # fmt: skip
    effects, withheld = found.tables
    assert len(withheld.rows) == 16
    gains = {(axis.split(":")[0], cells): gain for axis, cells, gain in effects.rows}
    assert len(gains) == len(effects.rows) == 11
    for text in ("with text-only data", "without text-only data"):
        images = _interval(gains["target-language images", text])
        assert images[1] < 30 < images[2]
        assert images[1] > 10
        others = _interval(gains["base-language images", text])
        assert others[1] < 0 < others[2]
    assert "1,200" not in "".join(found.sentences)
    assert "target-language images 100 to 400" in found.sentences[2]


def test_cells_of_one_share_with_other_amounts_are_not_averaged(tmp_path: Path) -> None:
    fake_grid.make_grid(tmp_path, cells=_cells(), num_images=30)
    grid, view = _load(tmp_path)
    points = [point for line in lines(grid, view, MAIN_PANEL) for point in line.points]
    assert len(points) == 2 * len(DESIGN)
    assert {len(point.cells) for point in points} == {1}
    assert len(score_table(grid, view).rows) == len(DESIGN)


def _jumps(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
    right = 0.9 if (axes["target_samples"] * axes[_STEPS] // 300) % 3 else 0.1
    return float(rng.random() < right), 0.0


@pytest.mark.slow
def test_all_trainings_of_a_cell_are_withheld_together(tmp_path: Path) -> None:
    grid, _ = _grid(tmp_path, _jumps, num_seeds=3)
    found = GridSurface(grid).validate()
    assert found.num_cells == len({cell.cell_id for cell in found.cells}) == len(DESIGN)
    assert found.mean_error > 0.1, "other trainings of a cell would predict it"


@pytest.mark.slow
def test_a_surface_that_fails_its_check_is_not_drawn(tmp_path: Path) -> None:
    grid, view = _grid(tmp_path, _jumps)
    found = section(grid, view)
    assert found is not None
    assert "No surface is shown" in found.sentences[1]
    assert not found.figures
    assert [table.title for table in found.tables] == ["Withheld cells"]


@pytest.mark.slow
def test_the_grid_answers_questions_about_a_budget(tmp_path: Path) -> None:
    grid, _ = _grid(tmp_path)
    advisor, prices = Advisor(grid), Prices(item=0.02, hour=1.0)
    middle = grid.cells[8].cell_id
    items = advisor.more_items(middle, 200, prices)
    assert items.cost == pytest.approx(4.0)
    assert items.low < 0.15 < items.high
    assert items.is_clear
    assert not advisor.text_only(middle).refusal
    assert not advisor.more_steps(middle, 1.0, prices).refusal
    assert "outside of the trained range 100 to 400" in advisor.more_items(
        middle, 300, prices
    ).refusal  # fmt: skip


@pytest.mark.slow
def test_other_grids_have_no_surface_and_unfinished_ones_say_so(tmp_path: Path) -> None:
    grid, view = scored_grid(tmp_path / "mix", cells=fake_grid.mix_axes())
    assert section(grid, view) is None
    fake_grid.make_grid(tmp_path / "open", cells=_cells(), num_images=30, unfinished=12)
    grid, view = _load(tmp_path / "open")
    found = section(grid, view)
    assert found is not None
    assert "has 4 evaluated cells; advice needs at least 5" in found.sentences[0]


def _load(root: Path) -> Any:
    grid = load_grid(root, "mix_ablation", "embedded")
    return grid, view_of(grid)


def _interval(text: str) -> tuple[float, float, float]:
    value, ends = text.removesuffix("]").split(" [")
    low, high = ends.split(", ")
    return float(value), float(low), float(high)
