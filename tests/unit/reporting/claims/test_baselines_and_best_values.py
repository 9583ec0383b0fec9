"""Claims against the most frequent answer and against the best value of any axis."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from core.errors import ConfigError
from evaluation.statistics.decisions import Verdict
from experiments.grids import zero_images
from reporting.claims.hypotheses import decide_claims
from reporting.claims.hypotheses_schema import Comparison, Hypothesis, Quantity
from tests.support.scored_grid import claim_of, scored_grid, sees

_SHARES = {"none": 0.0, "stage_1": 0.0, "share_20": 0.2, "share_100": 1.0}
_CHOSEN = ("zero_images_see", "zero_images_beat_majority", "zero_images_suffice")


def _decide(root: Path, chances: dict[str, float], blind: float = 0.1) -> Any:
    """Decide the claims of `zero_images` on cells with given chances of a correct answer."""
    cells = [
        {"target_share": share, "text_only": False, "backbone": "general", "stages": "both",
         "seed": 0, "images": name}
        for name, share in _SHARES.items()
    ]  # fmt: skip

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        return sees(chances[axes["images"]], blind)(axes, row, rng)

    grid, view = scored_grid(root, scorer, cells=cells)
    chosen = {name: zero_images.hypotheses[name] for name in _CHOSEN}
    text = yaml.safe_dump({"margin": 0.03, "hypotheses": chosen}, sort_keys=False)
    (grid.folder / "hypotheses.yaml").write_text(text)
    return decide_claims(grid, view)


@pytest.mark.slow
def test_cells_are_compared_with_baselines_and_with_the_best_of_all_values(tmp_path: Path) -> None:
    chances = {"none": 0.25, "stage_1": 0.5, "share_20": 0.95, "share_100": 0.6}
    results = _decide(tmp_path, chances)
    sees_image = claim_of(results, "zero_images_see", ", vqa")
    assert sees_image.verdict is Verdict.SUPPORTED
    # Every fake majority score is 0.2.
    majority = claim_of(results, "zero_images_beat_majority", ", vqa")
    assert majority.decision is not None
    none = sees_image.decision.difference.value + 0.1
    assert majority.decision.difference.value == pytest.approx(none - 0.2, abs=0.05)
    assert majority.verdict is Verdict.UNDECIDED
    enough = claim_of(results, "zero_images_suffice", ", vqa")
    assert enough.verdict is Verdict.REFUTED
    # The best is the cell with 20 %, and not the last one.
    assert enough.decision.difference.value == pytest.approx(0.25 - 0.95, abs=0.1)
    assert "none minus the best of the other values" in enough.detail
    assert not any("not monotone" in note for note in enough.notes)


def test_a_most_frequent_answer_has_no_part_of_the_image() -> None:
    with pytest.raises(ConfigError, match="second: majority requires quantity: score"):
        Hypothesis(
            text="x", source="x", axis="images", first="none", second="majority",
            test=Comparison.SUPERIORITY, quantity=Quantity.ATTRIBUTABLE,
        )  # fmt: skip


def test_every_axis_has_a_best_value_but_only_shares_exclude_further_axes() -> None:
    common: dict[str, Any] = {
        "text": "x", "source": "x", "first": "none", "second": "best",
        "test": Comparison.NON_INFERIORITY, "along": ["target_share"],
    }  # fmt: skip
    assert Hypothesis(axis="images", **common).along == ["target_share"]
    with pytest.raises(ConfigError, match="along"):
        Hypothesis(axis="target_share", **{**common, "along": ["images"]})
