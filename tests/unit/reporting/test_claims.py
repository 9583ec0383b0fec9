"""Claims: decided on what they are about, for the models and for the recipes, or not at all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from core.io.files import sha256_file
from evaluation.benchmarks.predictions import read_predictions, write_predictions
from evaluation.people.comparison import ComparedSystem
from evaluation.people.preferences import PreferenceSource, save_preferences
from evaluation.statistics.decisions import Verdict
from reporting import build
from reporting.claims import hypotheses, preregistration
from reporting.claims.claim_decisions import Margin, decide_enough, decide_pairs
from reporting.claims.claim_rows import claim_rows
from reporting.claims.hypotheses_schema import Comparison
from reporting.claims.paired_scores import CellScores, align_items, stack_seeds
from reporting.claims.preregistration import check_registration
from reporting.records import load_grid
from reporting.sections import figures
from reporting.series import best_point, lines, main_panel, view_of
from reporting.summary import key_figures, summary
from tests.support import fake_grid
from tests.support.comparisons import record_of, simulated_comparison
from tests.support.scored_grid import (
    claim_of,
    opening,
    scored_grid,
    sees,
    three_shares,
    write_retention,
)

_TEXT_ONLY = "Text-only data in the target language improves answers about images"


# --- C2: what a claim is about --------------------------------------------------------------------


@pytest.mark.slow
def test_a_cell_that_guesses_better_supports_nothing(tmp_path: Path) -> None:
    """The only supported claim of the review: one cell learnt the most frequent answers."""

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        if axes["target_share"] > 0:
            return sees(0.6, 0.2)(axes, row, rng)
        guesses = float(rng.random() < (0.25 if axes["text_only"] else 0.0))
        return guesses, guesses

    claim = claim_of(hypotheses.decide_claims(*scored_grid(tmp_path, scorer)), "text_only", ", vqa")
    assert claim.decision is not None
    assert claim.decision.verdict is not Verdict.SUPPORTED
    assert any("with text-only data, 0" in cell for cell in claim.excluded)
    assert [part.label for part in claim.parts] == [
        "20\N{NO-BREAK SPACE}%",
        "100\N{NO-BREAK SPACE}%",
    ]


@pytest.mark.slow
def test_a_pooled_claim_whose_pairs_disagree_is_undecided(tmp_path: Path) -> None:
    gains = {0.0: 0.35, 0.2: 0.0, 1.0: -0.1}

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        share = 0.6 + axes["text_only"] * gains[axes["target_share"]]
        return sees(share, 0.1)(axes, row, rng)

    results = hypotheses.decide_claims(*scored_grid(tmp_path, scorer))
    claim = claim_of(results, "text_only", ", vqa")
    assert claim.heterogeneity is not None
    assert claim.heterogeneity.p_value is not None
    assert claim.heterogeneity.p_value < 0.001
    assert claim.decision is not None
    assert claim.decision.p_supported < 0.05  # the mean alone would support it
    assert claim.decision.verdict is Verdict.UNDECIDED
    assert "depends on the pooled cells" in claim.reason
    row = next(row for row in claim_rows(results) if row.text == claim.text)
    assert any(note.startswith("single pairs: +") for note in row.notes)
    assert row.needed == ""  # more images would not settle the disagreement


@pytest.mark.slow
def test_a_common_effect_is_supported_for_the_models(tmp_path: Path) -> None:
    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        return sees(0.75 if axes["text_only"] else 0.5, 0.1)(axes, row, rng)

    claim = claim_of(hypotheses.decide_claims(*scored_grid(tmp_path, scorer)), "text_only", ", vqa")
    assert claim.decision is not None
    assert claim.decision.verdict is Verdict.SUPPORTED
    assert not claim.is_about_recipe
    assert "trained with one seed" in claim.recipe_reason


@pytest.mark.slow
def test_replicated_cells_decide_about_the_recipe(tmp_path: Path) -> None:
    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        return sees(0.8 if axes["text_only"] else 0.4, 0.1)(axes, row, rng)

    results = hypotheses.decide_claims(
        *scored_grid(tmp_path, scorer, cells=three_shares((0, 1, 2)))
    )
    claim = claim_of(results, "text_only", ", vqa")
    assert claim.is_about_recipe
    assert claim.verdict is Verdict.SUPPORTED
    assert claim.trainings.first == (3,)
    row = next(row for row in claim_rows(results) if row.text == claim.text)
    assert "3 trainings per cell, t with" in row.recipe_note


@pytest.mark.slow
def test_support_by_a_cell_that_shows_nothing_is_taken_back(tmp_path: Path) -> None:
    """A cell that beats a useless one by guessing has not learnt to see."""

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        is_both = axes["stages"] == "both"
        return (float(rng.random() < 0.2), 0.0) if is_both else (0.0, 0.0)

    results = hypotheses.decide_claims(*scored_grid(tmp_path, scorer, cells=fake_grid.stage_axes()))
    claim = claim_of(results, "alignment")
    assert claim.decision is not None
    assert claim.decision.p_supported < 0.05
    assert claim.decision.verdict is Verdict.UNDECIDED
    assert "does not exceed its blind and majority baselines" in claim.reason


# --- H1: the best share ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_share_is_never_compared_with_itself(tmp_path: Path) -> None:
    """20 % is the best share observed by luck: nothing is supported with certainty."""

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        share = 0.56 if axes["target_share"] == 0.2 else 0.5
        return sees(share, 0.1)(axes, row, rng)

    claim = claim_of(hypotheses.decide_claims(*scored_grid(tmp_path, scorer)), "enough", ", vqa")
    assert claim.decision is not None
    assert claim.decision.difference.value != 0
    assert claim.decision.p_supported > 0.001
    assert "the best of the other shares" in claim.detail


@pytest.mark.slow
def test_a_curve_that_falls_is_reported(tmp_path: Path) -> None:
    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        share = {0.0: 0.3, 0.2: 0.9, 1.0: 0.5}[axes["target_share"]]
        return sees(share, 0.05)(axes, row, rng)

    claim = claim_of(hypotheses.decide_claims(*scored_grid(tmp_path, scorer)), "enough", ", vqa")
    assert claim.decision is not None
    assert claim.decision.verdict is Verdict.SUPPORTED
    assert any("not monotone" in note for note in claim.notes)


@pytest.mark.slow
def test_a_relative_margin_needs_an_image_that_contributes(tmp_path: Path) -> None:
    results = hypotheses.decide_claims(*scored_grid(tmp_path, lambda a, r, g: (0.5, 0.5)))
    claim = claim_of(results, "enough", ", vqa")
    assert claim.decision is not None
    assert claim.decision.verdict is Verdict.UNDECIDED
    assert "blind score" in claim.reason


def test_a_share_without_a_contribution_of_the_image_hides_no_recipe() -> None:
    """It has no relative margin, but it is not the best where others gain."""
    rng = np.random.default_rng(0)
    images = tuple(f"i{number // 3}" for number in range(900))

    def cell(accuracy: float, blind: float) -> CellScores:
        draws = rng.random((3, len(images)))
        return CellScores(
            questions=tuple(map(str, range(len(images)))),
            images=images,
            seeds=(0, 1, 2),
            scores_KI=(draws < accuracy).astype(float),
            blind_KI=np.full((3, len(images)), blind),
            is_attributable=True,
        )

    cells = [(0.0, cell(0.2, 0.25)), (0.2, cell(0.8, 0.25)), (1.0, cell(0.8, 0.25))]
    outcome = decide_enough(
        cells, 0.2, [one for _, one in cells], margin=Margin(absolute=0.03, relative=0.1)
    )
    assert outcome.recipe.decision.reason == ""
    assert outcome.recipe.df is not None


# --- H8: any benchmark, metric, population and quantity -------------------------------------------


@pytest.mark.slow
def test_the_deciding_metric_of_the_profile_decides(tmp_path: Path) -> None:
    _, view = scored_grid(tmp_path, sees(0.5, 0.1))
    for path in tmp_path.glob("store/evaluate/*/result/predictions.parquet"):
        table = read_predictions(path)
        at = table.schema.get_field_index("score_lmms")
        ones = pa.array([1.0] * table.num_rows, table.schema.field(at).type)
        write_predictions(path, table.set_column(at, table.schema.field(at), ones))
    folder = tmp_path / "grids" / "mix_ablation-embedded"
    values = {}
    for metric in ("vqa", "vqa_lmms"):
        about = {**json.loads((folder / "grid.json").read_text()), "deciding_metric": metric}
        (folder / "grid.json").write_text(json.dumps(about))
        grid = load_grid(tmp_path, "mix_ablation", "embedded")
        claim = claim_of(hypotheses.decide_claims(grid, view), "enough", ", vqa")
        assert claim.decision is not None
        values[metric] = claim.decision.difference.value
    assert values["vqa"] != values["vqa_lmms"]


@pytest.mark.slow
def test_open_and_closed_questions_are_compared(tmp_path: Path) -> None:
    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        is_open = row["benchmark"] == "vqa" and row["answer_type"] != "yes/no"
        gain = 0.4 if is_open and axes["target_share"] == 1.0 else 0.0
        return float(rng.random() < 0.4 + gain), 0.0

    results = hypotheses.decide_claims(*scored_grid(tmp_path, scorer))
    claim = claim_of(results, "open_and_closed_alike")
    assert claim.decision is not None
    assert claim.decision.difference.value == pytest.approx(-0.4, abs=0.15), claim
    assert claim.decision.verdict is Verdict.REFUTED


@pytest.mark.slow
def test_a_contrast_is_not_decided_by_one_kind_of_questions_alone(tmp_path: Path) -> None:
    """A change of open questions is no contrast if no cell sees on closed ones."""

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        is_open = row["benchmark"] == "vqa" and row["answer_type"] != "yes/no"
        seen = 0.4 + 0.4 * (axes["target_share"] == 1.0) if is_open else 0.3
        return float(rng.random() < seen), float(rng.random() < (0.0 if is_open else 0.3))

    results = hypotheses.decide_claims(*scored_grid(tmp_path, scorer))
    claim = claim_of(results, "open_and_closed_alike")
    assert claim.verdict is Verdict.UNDECIDED or claim.verdict is None
    assert "on one of the two kinds of questions" in claim.reason


@pytest.mark.slow
def test_retention_tasks_carry_claims(tmp_path: Path) -> None:
    grid, _ = scored_grid(tmp_path)
    rng = np.random.default_rng(0)
    base = rng.random(200)
    for cell in grid.cells:
        gain = 0.3 * bool(cell.axes["text_only"])
        for kind, shift in (("retention", gain), ("backbone", 0.0)):
            values = tuple(map(float, base + 1.0 - shift + 0.05 * rng.random(200)))
            write_retention(tmp_path, grid, cell.cell_id, kind, values)
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    results = hypotheses.decide_claims(grid, view_of(grid))
    helped = claim_of(results, "text_only_text")
    assert helped.decision is not None
    assert helped.decision.verdict is Verdict.SUPPORTED
    assert helped.decision.difference.value == pytest.approx(0.3, abs=0.02)
    kept = claim_of(results, "multimodal_training_text")
    assert kept.decision is not None
    assert kept.decision.verdict is Verdict.SUPPORTED
    assert "minus the language model before training" in kept.detail

    for kind in ("align", "instruct"):  # the same values say nothing if nothing could change
        for path in (tmp_path / "store" / kind).glob("*/stage.json"):
            about = json.loads(path.read_text())
            about["config"] = about.get("config", {}) | {"policy": {"language_model": False}}
            path.write_text(json.dumps(about))
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    results = hypotheses.decide_claims(grid, view_of(grid))
    for name in ("text_only_text", "multimodal_training_text"):
        claim = claim_of(results, name)
        assert claim.verdict is Verdict.UNDECIDED
        assert "no stage trains the language model" in claim.reason


@pytest.mark.slow
def test_zero_target_images_in_both_stages_is_a_claim(tmp_path: Path) -> None:
    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        return sees(0.3 + 0.5 * (axes["target_share"] > 0), 0.02)(axes, row, rng)

    results = hypotheses.decide_claims(
        *scored_grid(tmp_path, scorer, common={"align.target_share": 0.0})
    )
    assert claim_of(results, "zero_sees").verdict is Verdict.SUPPORTED
    assert claim_of(results, "zero_enough").verdict is Verdict.REFUTED


@pytest.mark.slow
def test_hypotheses_that_do_not_apply_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, view = scored_grid(tmp_path)
    reasons = {one.name: one.reason for one in hypotheses.decide_claims(grid, view).inapplicable}
    assert reasons["alignment"] == "all cells have stages = both"
    assert "requires align.target_share = 0.0" in reasons["zero_enough"]
    assert reasons["text_only_text"] == "not measured in this grid"
    monkeypatch.setattr(figures, "page_figures", lambda *args: [])
    page = build.render_page(grid, view, [])
    assert "registered claims do not apply to this grid" in page
    assert "probability that any verdict is wrong" in page


@pytest.mark.slow
def test_preferences_are_not_decided_on_scores(tmp_path: Path) -> None:
    results = hypotheses.decide_claims(*scored_grid(tmp_path, cells=fake_grid.backbone_axes()))
    assert "backbones_alike" in {claim.name for claim in results.claims}
    reasons = {one.name: one.reason for one in results.inapplicable}
    assert reasons["backbones_preferred_alike"] == "not measured in this grid"


@pytest.mark.slow
def test_judgements_of_people_carry_claims(tmp_path: Path) -> None:
    grid, view = scored_grid(tmp_path, cells=fake_grid.backbone_axes())
    general, adapted = (
        next(c for c in grid.cells if c.axes["backbone"] == name and c.axes["target_share"] == 0.2)
        for name in ("general", "adapted")
    )
    systems = [
        ComparedSystem(name=cell.cell_id, predictions="x",
                       sha256=sha256_file(cell.stages["evaluate"].predictions))
        for cell in (adapted, general)
    ]  # fmt: skip
    comparison = dataclasses.replace(
        simulated_comparison(80, 20, most=0), first=systems[0], second=systems[1]
    )
    people = record_of(comparison, np.ones(80), source=PreferenceSource.PEOPLE, raters=("ane",))
    save_preferences(grid.folder / "preferences", people)
    results = hypotheses.decide_claims(grid, view)
    claim = claim_of(results, "backbones_preferred_alike")
    assert claim.decision is not None
    assert claim.decision.difference.value == pytest.approx(-0.8)  # 80 of 100 prefer the adapted
    assert claim.decision.verdict is Verdict.REFUTED
    assert not claim.is_about_recipe
    reasons = [one.text for one in results.inapplicable if one.name == claim.name]
    assert len(reasons) == 1  # no judge


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin: 0.03", "margin: 3", "fractions of accuracy"),
        ("test: superiority", "test: better", "better"),
        ("axis: text_only", "axis: text_only\n    sort: x", "sort"),
        ("second: false", "second: best", "requires test: non_inferiority"),
        ("pool: [target_share]", "pool: [text_only]", "can't be pooled"),
        ("kind: [vqa, mc, capqa]", "kind: vqaa", "Did you mean 'vqa'"),
        ("kind: fidelity", "kind: fidelity\n    quantity: attributable", "without the image"),
        ("second: best", "second: best\n    pool: [text_only]", "without pool"),
        ("kind: fidelity\n    margin: 0.03", "kind: fidelity", "is not measured in accuracy"),
        ("    bits_margin: 0.05", "    margin: 0.05", "measured in bits per byte"),
        ("bits_margin: 0.05", "bits_margin: -1", "positive number of bits"),
        ("kind: fidelity", "kind: fidelity\n    bits_margin: 0.1", "requires kind: retention"),
        ('tasks: ["text:*_{language}", "*_{language}", "eus_*", "*_eus_Latn"]', "", "needs tasks"),
    ],
)
def test_an_inconsistent_hypothesis_is_rejected(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = preregistration.SHIPPED.read_text("utf-8")
    assert old in text
    (tmp_path / "hypotheses.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        preregistration.load_registered(tmp_path)


@pytest.mark.slow
def test_hypothesis_on_a_configuration_field_is_decided(tmp_path: Path) -> None:
    cells = fake_grid.connector_axes()
    folder = fake_grid.make_grid(tmp_path, "connector", cells=cells, num_images=12)
    (folder / "hypotheses.yaml").write_text(_CONNECTOR_HYPOTHESES, encoding="utf-8")
    grid = load_grid(tmp_path, "connector", "embedded")
    results = hypotheses.decide_claims(grid, view_of(grid))
    assert [claim.text for claim in results.claims] == [
        "mlp2x_gelu is better than linear",
        "600 steps are better than 300, connector.kind = linear",
        "600 steps are better than 300, connector.kind = mlp2x_gelu",
        "1200 steps are better than 300, connector.kind = linear",
        "1200 steps are better than 300, connector.kind = mlp2x_gelu",
    ]
    detail = "vqa; connector.kind: mlp2x_gelu minus linear, mean over 3 pairs of cells"
    assert results.claims[0].detail == detail
    assert all(claim.decision is not None for claim in results.claims)


_CONNECTOR_HYPOTHESES = """
margin: 0.03
hypotheses:
  connector:
    text: "{first} is better than {second}"
    source: test
    axis: model.connector.kind
    first: mlp2x_gelu
    second: linear
    pool: [instruct.num_steps]
    test: superiority
  steps:
    text: "{second} steps are better than {first}"
    source: test
    axis: instruct.num_steps
    first: first
    second: others
    test: non_inferiority
"""


@pytest.mark.slow
def test_claims_on_cells_that_have_not_run_stay_open(tmp_path: Path) -> None:
    fake_grid.make_grid(tmp_path, unfinished=6, num_images=12)
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    claim = claim_of(hypotheses.decide_claims(grid, view_of(grid)), "text_only", ", vqa")
    assert claim.decision is None
    assert claim.reason == "the cells have not run yet"


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_recipe_is_never_surer_than_its_trained_models(seed: int) -> None:
    """Found with 40 images and pooled pairs, where the approximations differ."""
    rng = np.random.default_rng(seed)
    images = tuple(f"i{number}" for number in range(40))

    def cell(accuracy: float) -> CellScores:
        scores = (rng.random((3, len(images))) < accuracy).astype(float)
        questions = tuple(map(str, range(len(images))))
        return CellScores(questions=questions, images=images, seeds=(0, 1, 2), scores_KI=scores)

    firsts, seconds = ([cell(accuracy) for _ in range(5)] for accuracy in (0.95, 0.9))
    outcome = decide_pairs(
        firsts, seconds, firsts, test=Comparison.SUPERIORITY, margin=Margin(absolute=0.03)
    )
    assert outcome.recipe.decision.p_supported >= outcome.decision.p_supported
    assert outcome.recipe.decision.p_refuted >= outcome.decision.p_refuted
    models, recipe = outcome.decision.difference, outcome.recipe.decision.difference
    assert models.value == pytest.approx(recipe.value)
    if recipe.low is not None:
        assert recipe.low <= models.low
        assert recipe.high >= models.high


def test_a_claim_states_its_margin(tmp_path: Path) -> None:
    results = hypotheses.decide_claims(*scored_grid(tmp_path, sees(0.5, 0.1)))
    details = {c.name: c.detail.replace("\N{NO-BREAK SPACE}", " ") for c in results.claims}
    assert details["enough"].endswith("; margin: 10 % of what the image contributes")
    assert details["base_language_kept"].endswith("; margin: 3 points of accuracy")
    assert "margin" not in details["text_only"]


@pytest.mark.slow
def test_a_claim_is_not_decided_before_all_its_cells_have_run(tmp_path: Path) -> None:
    """The best share can't be known, and a second look would need a level of its own."""
    fake_grid.make_grid(tmp_path, unfinished=1, num_images=12)
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    results = hypotheses.decide_claims(grid, view_of(grid))
    open_claims = [c for c in results.claims if "pairs of cells have not run yet" in c.reason]
    assert open_claims
    assert all(claim.decision is None and claim.verdict is None for claim in open_claims)


@pytest.mark.slow
def test_every_verdict_of_a_column_shares_one_error_level(tmp_path: Path) -> None:
    """p-values are those of a single claim times the number of claims."""
    grid, view = scored_grid(tmp_path, sees(0.5, 0.1))
    many = [c for c in hypotheses.decide_claims(grid, view).claims if c.decision is not None]
    text = preregistration.SHIPPED.read_text("utf-8")
    only = text[text.index("  base_language_kept:") :]
    (grid.folder / "hypotheses.yaml").write_text(f"margin: 0.03\nhypotheses:\n{only}")
    (alone,) = hypotheses.decide_claims(grid, view).claims
    among = next(claim for claim in many if claim.name == "base_language_kept")
    assert alone.decision is not None
    assert among.decision is not None
    corrected = min(1.0, len(many) * alone.decision.p_supported)
    assert among.decision.p_supported == pytest.approx(corrected)
    assert among.decision.confidence == pytest.approx(1 - 0.1 / len(many))


# --- values per item ------------------------------------------------------------------------------


def _values(**fields: Any) -> CellScores:
    names = ("1", "2", "3", "4")
    scores_KI = np.array([[1.0, 0.0, 1.0, 0.5]])
    return CellScores(questions=names, images=names, seeds=(0,), scores_KI=scores_KI, **fields)


def test_a_contrast_is_the_difference_of_two_means() -> None:
    cell = _values(groups_I=np.array([0, 0, 0, 1]), coefficients=(1.0, -1.0))
    assert cell.values.mean() == pytest.approx(2 / 3 - 0.5)


def test_weights_make_a_ratio_of_sums() -> None:
    cell = _values(weights_I=np.array([1.0, 1.0, 2.0, 4.0]))
    assert cell.values.mean() == pytest.approx((1 + 0 + 2 + 2) / 8)


def test_an_attributable_value_is_the_score_minus_the_blind_score() -> None:
    blind_KI = np.array([[1.0, 0.0, 0.0, 0.0]])
    cell = _values(blind_KI=blind_KI, is_attributable=True)
    assert cell.values.tolist() == [0.0, 0.0, 1.0, 0.5]
    assert cell.reference.tolist() == [0.0] * 4


def test_cells_are_paired_by_question_whatever_their_order() -> None:
    first = _values()
    second = dataclasses.replace(first.select(("3", "1")), seeds=(1,))
    a, b = align_items([first, second])
    assert a.questions == b.questions == ("1", "3")
    assert a.scores_KI.tolist() == b.scores_KI.tolist() == [[1.0, 1.0]]
    both = stack_seeds([(0, first), (1, second)])
    assert both.seeds == (0, 1)
    assert both.scores_KI.shape == (2, 2)


# --- summary --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_highest_accuracy_has_no_interval_and_is_called_a_maximum(tmp_path: Path) -> None:
    grid, view = scored_grid(tmp_path)
    text = opening(grid, view, [])
    assert "the highest of 6 observed accuracies" in text
    assert "likely to be too high" in text
    figure = key_figures(grid, view)[0]
    assert figure.label == "highest accuracy in eu"
    assert "[" not in figure.detail


@pytest.mark.slow
def test_a_lost_reply_language_is_not_called_forgetting(tmp_path: Path) -> None:
    grid, view = scored_grid(tmp_path)
    for cell in grid.cells:
        assert cell.evaluation is not None
        path = cell.evaluation.folder / "result" / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["metrics"]["fidelity/en"] = {"value": 2.1}
        metrics["metrics"]["vqa/en/accuracy_any_language"] = {"value": 58.0}
        path.write_text(json.dumps(metrics))
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    text = opening(grid, view, [])
    assert "only 2.1\N{NO-BREAK SPACE}% of the replies are in en" in text
    assert "not the same as not knowing" in text
    assert "in any language, the accuracy is 58.0\N{NO-BREAK SPACE}%" in text


@pytest.mark.slow
def test_baselines_of_the_summary_are_those_of_the_highest_cell_in_the_target_language(
    tmp_path: Path,
) -> None:
    """A grid without a curve took them from the other language, where the score was higher."""
    grid, view = scored_grid(tmp_path)
    view = dataclasses.replace(view, is_curve=False)
    found = best_point(lines(grid, view, main_panel(grid)), "eu")
    assert found is not None
    best = found[1]
    text = opening(grid, view, [])
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"In eu, the majority-answer baseline reaches {best.majority:.1f} %" in text
    assert f"reaches {best.blind:.1f} % without the image" in text


@pytest.mark.slow
def test_the_base_language_is_reported_for_the_setting_of_the_highest_cell(
    tmp_path: Path,
) -> None:
    """The sentence gave a mean over settings, which stood in no table."""
    grid, view = scored_grid(tmp_path)
    drawn = lines(grid, view, main_panel(grid))
    found = best_point(drawn, "eu")
    assert found is not None
    setting = found[0]
    (line,) = (x for x in drawn if (x.language, x.setting) == ("en", setting))
    text = opening(grid, view, [])
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    first, last = (f"{line.points[at].value:.1f} %" for at in (0, -1))
    assert f"changes from {first} at a share of 0 % to {last} at 100 %" in text
    assert f"of the same setting ({view.label(setting)})" in text or not view.label(setting)


@pytest.mark.slow
def test_a_share_of_zero_names_the_share_of_stage_1(tmp_path: Path) -> None:
    grid, view = scored_grid(tmp_path)
    grid = dataclasses.replace(grid, common={"align.target_share": 0.2})
    text = opening(grid, view, [])
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    assert "at a share of zero in stage 2 (stage 1 always has 20 %)" in text


@pytest.mark.slow
def test_the_summary_says_what_a_verdict_is_about(tmp_path: Path) -> None:
    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        return sees(0.75 if axes["text_only"] else 0.5, 0.1)(axes, row, rng)

    grid, view = scored_grid(tmp_path, scorer)
    results = hypotheses.decide_claims(grid, view)
    found = summary(grid, view, results.claims, check_registration(grid))
    (helped,) = (one for one in found.verdicts if one.text == _TEXT_ONLY)
    assert (helped.verdict, helped.scope) == (
        "supported", "for these trained models, not shown for other trainings",
    )  # fmt: skip
    assert "vqa" in helped.cases
    numbers = [claim.verdict for claim in results.claims].count(Verdict.SUPPORTED)
    assert f" {numbers} are supported, " in found.sentences[-1]
    assert len(found.sentences) == 3
