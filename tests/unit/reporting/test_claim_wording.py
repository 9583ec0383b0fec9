"""Words of claims: units, evidence, trainings per side, assumptions, and claims without ability."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.statistics.decisions import Verdict
from reporting.claims import hypotheses
from reporting.claims.claim import Claim, ClaimResults, Trainings
from reporting.claims.claim_rows import ClaimRow, claim_rows
from reporting.claims.claim_texts import describe_parts
from reporting.claims.sufficiency import sufficiency_tables
from reporting.claims.units import ACCURACY, BITS_PER_BYTE
from reporting.records import load_grid
from reporting.series import view_of
from tests.support import fake_grid
from tests.support.scored_grid import (
    TEXT_MANIFEST,
    claim_of,
    scored_grid,
    sees,
    three_shares,
    write_retention,
)

pytestmark = pytest.mark.slow
"""Every test builds a report or decides claims."""


def _row(results: ClaimResults, claim: Claim) -> ClaimRow:
    return next(row for row in claim_rows(results) if row.text == claim.text)


@pytest.fixture
def retained(tmp_path: Path) -> ClaimResults:
    """Return claims of a grid whose cells with text-only data were trained on the scored texts."""
    grid, _ = scored_grid(tmp_path)
    base = np.random.default_rng(0).random(200)
    for at, cell in enumerate(grid.cells):
        for kind in ("retention", "backbone"):
            noise = 0.3 * np.random.default_rng(at).normal(size=200)
            values = tuple(map(float, base + 2 + (noise if kind == "retention" else 0)))
            write_retention(tmp_path, grid, cell.cell_id, kind, values)
        if cell.axes["text_only"]:
            path = cell.stages["instruct"].folder / "stage.json"
            about = json.loads(path.read_text())
            about["data"][TEXT_MANIFEST] = "c3d4"
            path.write_text(json.dumps(about))
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    return hypotheses.decide_claims(grid, view_of(grid))


def test_bits_have_a_unit_a_margin_and_evidence_of_their_own(retained: ClaimResults) -> None:
    kept = claim_of(retained, "multimodal_training_text")
    row = _row(retained, kept)
    assert kept.decision is not None
    assert kept.decision.delta == 0.05
    assert kept.detail.endswith("; margin: 0.05 bits per byte")
    assert row.difference.endswith(" bits per byte")
    assert len(row.difference.split()[0].partition(".")[2]) == 3
    assert row.notes[0].startswith("texts in eu; ")
    helped = claim_of(retained, "text_only_text")
    assert helped.decision is not None
    assert helped.decision.verdict is Verdict.UNDECIDED
    assert "documents (now 200)" in _row(retained, helped).needed
    for claim in (kept, helped):
        words = " ".join(map(str, (_row(retained, claim), claim.detail)))
        assert "image" not in words.replace("Training with images", "")
        assert "points" not in words


def test_a_claim_that_rests_on_training_text_says_so(retained: ClaimResults) -> None:
    helped = claim_of(retained, "text_only_text")
    assert any("training data of 3 of the 6 compared cells" in note for note in helped.notes)
    assert any("source of text:text_eu" in note for note in helped.notes)
    vision = claim_of(retained, "text_only", ", vqa")
    assert not any("training text" in note for note in vision.notes)


def test_parts_are_listed_in_the_unit_of_the_claim() -> None:
    part = type("Part", (), {"label": "20 %", "effect": type("E", (), {"value": -0.0125})})
    assert describe_parts([part], ACCURACY) == "\N{MINUS SIGN}1.2 (20 %)"
    assert describe_parts([part], BITS_PER_BYTE) == "\N{MINUS SIGN}0.013 (20 %)"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((1,), (1,), "one training per cell"),
        ((3,), (), "3 trainings per cell"),
        ((3,), (1,), "3 trainings per first cell, one training per second cell"),
        ((3,), (1, 3), "3 trainings per first cell, 1 or 3 trainings per second cell"),
        ((1,), (1, 2, 5), "one training per first cell, 1 to 5 trainings per second cell"),
    ],
)
def test_trainings_are_counted_per_side(
    first: tuple[int, ...], second: tuple[int, ...], words: str
) -> None:
    assert Trainings(first=first, second=second).describe() == words


def test_unequal_replication_and_its_assumption_stand_with_the_verdict(tmp_path: Path) -> None:
    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        return sees(0.8 if axes["target_share"] == 0.2 else 0.4, 0.1)(axes, row, rng)

    cells = [
        axes for axes in three_shares((0, 1, 2)) if axes["seed"] == 0 or axes["target_share"] == 0.2
    ]
    results = hypotheses.decide_claims(*scored_grid(tmp_path, scorer, cells=cells))
    claim = claim_of(results, "enough", ", vqa")
    row = _row(results, claim)
    sides = "3 trainings per first cell, one training per second cell"
    assert row.models_note == sides
    assert claim.is_about_recipe
    assert "trainings of every cell vary as in the 2 replicated ones" in row.recipe_note


def test_equal_replication_of_the_compared_cells_needs_no_assumption(tmp_path: Path) -> None:
    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        return sees(0.8 if axes["text_only"] else 0.4, 0.1)(axes, row, rng)

    results = hypotheses.decide_claims(
        *scored_grid(tmp_path, scorer, cells=three_shares((0, 1, 2)))
    )
    row = _row(results, claim_of(results, "text_only", ", vqa"))
    assert row.models_note == "3 trainings per cell"
    assert "assumes" not in row.recipe_note


def test_where_no_cell_shows_the_ability_no_number_of_images_is_asked_for(tmp_path: Path) -> None:
    """All cells guess: an accuracy of the majority with and without the image."""
    results = hypotheses.decide_claims(
        *scored_grid(tmp_path, lambda axes, row, rng: sees(0.2, 0.2)(axes, row, rng))
    )
    for name in ("enough", "text_only"):
        claim = claim_of(results, name, ", vqa")
        row = _row(results, claim)
        assert "no number of images decides it" in row.models_note or "blind score" in claim.reason
        assert row.needed == ""
        assert "more images" not in row.recipe_note
        assert claim.decision is None or claim.decision.verdict is Verdict.UNDECIDED


def test_more_images_are_not_asked_for_a_support_that_would_not_stand(tmp_path: Path) -> None:
    """The cell that would be supported does not exceed its baselines."""

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        share = 0.12 if axes["stages"] == "both" else 0.1
        return sees(share, 0.09)(axes, row, rng)

    results = hypotheses.decide_claims(*scored_grid(tmp_path, scorer, cells=fake_grid.stage_axes()))
    claim = claim_of(results, "alignment")
    assert claim.decision is not None
    assert claim.decision.verdict is Verdict.UNDECIDED
    assert "baselines" in claim.reason
    assert _row(results, claim).needed == ""


def test_a_share_that_shows_nothing_does_not_bend_the_curve(tmp_path: Path) -> None:
    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        share = axes["target_share"]
        return sees(0.5 + 0.3 * share if share else 0.1, 0.1)(axes, row, rng)

    cells = [axes for axes in fake_grid.mix_axes() if not axes["text_only"]]
    (table,) = sufficiency_tables(*scored_grid(tmp_path, scorer, cells=cells))
    assert "The curve leaves out 0\N{NO-BREAK SPACE}%" in table.sentence
    assert [row.gain == "" for row in table.rows] == [True, *[False] * 4, True]


def test_a_share_that_shows_nothing_is_not_called_sufficient(tmp_path: Path) -> None:
    """Every share is close to the best where nothing was learned."""

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        del axes, row
        return 0.2 + 0.01 * (rng.random() - 0.5), 0.2  # 20 % is the majority baseline

    cells = [axes for axes in fake_grid.mix_axes() if not axes["text_only"]]
    (table,) = sufficiency_tables(*scored_grid(tmp_path, scorer, cells=cells))
    named = table.sentence.partition("of the best: ")[2]
    assert named, table.sentence
    assert "the cell does not exceed its baselines: that it is close to the best" in named
