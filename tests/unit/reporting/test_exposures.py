"""Exposures and amounts of target-language data in the report."""

import dataclasses
import json

import pytest

from evaluation.answers.registry import rule_for
from evaluation.benchmarks.predictions import read_predictions
from reporting import build, series
from reporting.amounts import amounts_of, describe_amount, format_count
from reporting.claims.claim_cells import select_cells
from reporting.claims.hypotheses_schema import Comparison, Hypothesis
from reporting.records import load_grid
from reporting.sections.exposures import (
    ExposureCounter,
    exposure_sentences,
    exposure_tables,
    group_of,
)
from reporting.settings import NBSP, configured_axes, setting_of, share_of
from reporting.tracking.payload import final_metrics, stage_files
from tests.support import fake_grid
from tests.support.fake_targets import NAMES, write_data

pytestmark = pytest.mark.slow
"""Every test builds a report or decides claims."""


@pytest.fixture
def root(tmp_path):
    cells = [cell for cell in fake_grid.mix_axes() if not cell["text_only"]][:3]
    fake_grid.make_grid(tmp_path, cells=cells, num_images=24)
    return tmp_path


def load(root):
    grid = load_grid(root, "mix_ablation", "embedded")
    return grid, series.view_of(grid)


def test_a_report_without_counts_has_no_section(root):
    grid, view = load(root)
    assert exposure_tables(grid, view) == []
    assert 'id="exposures"' not in build.render_page(grid, view, [])
    assert describe_amount(grid.cells) == ""


def test_scores_are_grouped_by_the_exposures_of_their_answers(root):
    write_data(root, "instruct", NAMES, {"etxea": 5})
    write_data(root, "align", dict.fromkeys(NAMES, 3), {})
    grid, view = load(root)
    table = next(t for t in exposure_tables(grid, view) if t.title.startswith("Open"))
    rows = read_predictions(grid.cells[0].evaluation.predictions).to_pylist()
    asked = [r for r in rows if r["language"] == "eu" and r["answer_type"] == "other"]
    expected = {}
    for row in asked:
        expected.setdefault(group_of(NAMES[row["answers"][0]]), []).append(row["score"])
    found = table.rows[0]
    for at, group in enumerate(found.groups):
        scores = expected.get(at, [])
        assert group.num_questions == len(scores)
        if scores:
            assert group.score == f"{100 * sum(scores) / len(scores):.1f}"
    used = sorted(NAMES[name] for name in {row["answers"][0] for row in asked})
    assert found.num_answers == len(used)
    assert (found.quartiles[0], found.quartiles[-1]) == (used[0], used[-1])
    assert found.num_few == sum(count < 8 for count in used)
    assert found.in_stage_1 == "3"
    page = build.render_page(grid, view, [])
    assert 'id="exposures"' in page
    assert f"n = {found.groups[0].num_questions}" in page
    (sentence, *_) = exposure_sentences([table])
    assert "3 of 3 cells trained some of the answers fewer than 8 times" in sentence


def test_answers_are_compared_by_the_rule_of_the_language():
    """The relaxed Basque rule does not tell the definite from the bare form."""
    counter = ExposureCounter({"Txakurra.": 3, "txakur": 2, "etxea": 7}, rule_for("eu"))
    assert counter.count("Txakurra") == 5
    assert counter.count("etxea") == 7
    assert counter.count("sagarra") == 0
    neutral = ExposureCounter({"txakurra": 3, "txakur": 2}, rule_for("xx"))
    assert neutral.count("txakurra") == 3


@pytest.mark.parametrize(("count", "group"), [(0, 0), (1, 1), (2, 2), (3, 2), (7, 3), (8, 4)])
def test_groups(count, group):
    assert group_of(count) == group


def test_amounts_are_shown_under_every_share(root):
    write_data(root, "instruct", NAMES, {})
    grid, view = load(root)
    text = f"304 of 608{NBSP}images, 61{NBSP}k{NBSP}tokens"
    assert describe_amount(grid.cells[:1]) == text
    page = build.render_page(grid, view, [])
    assert page.count(f"<small>{text}</small>") >= 3
    assert "number of images; answer tokens" in page
    metrics = final_metrics(grid.cells[0].stages["instruct"], "eu")
    assert metrics["data/target_images/num_different"] == 304
    assert metrics["data/base_images/num_loss_tokens"] == 61_240
    files = [path.name for path, _ in stage_files(grid.cells[0].stages["instruct"])]
    assert files.count("target_data.json") == files.count("exposures.json") == 1


def test_an_unknown_amount_of_one_seed_is_not_guessed(root):
    write_data(root, "instruct", NAMES, {})
    grid, _ = load(root)
    assert amounts_of(grid.cells) is not None
    (grid.cells[1].stages["instruct"].folder / "result" / "target_data.json").unlink()
    grid, _ = load(root)
    assert amounts_of(grid.cells) is None


@pytest.mark.parametrize(
    ("number", "text"),
    [(840, "840"), (9_140, "9.1 k"), (61_240, "61 k"), (120_000, "120 k"), (1_250_000, "1.2 M")],
)
def test_counts_are_short(number, text):
    assert format_count(number).replace(NBSP, " ") == text


# --- Cells with a number of images instead of a share ---


@pytest.fixture
def amounts(tmp_path):
    shared = {"text_only": False, "backbone": "general", "stages": "both", "seed": 0}
    axes = [
        {"target_share": share, "target_samples": number, "instruct.num_steps": steps, **shared}
        for number, steps, share in ((300, 400, 0.25), (900, 400, 0.75), (300, 600, 1 / 6))
    ]
    folder = fake_grid.make_grid(tmp_path, cells=axes, num_images=12)
    about = json.loads((folder / "grid.json").read_text())
    for cell in about["cells"]:
        cell["target_share"] = cell["axes"].pop("target_share")
    (folder / "grid.json").write_text(json.dumps(about))
    return load(tmp_path)


def test_numbers_of_images_lie_at_the_shares_that_they_mean(amounts):
    grid, view = amounts
    assert [share_of(cell) for cell in grid.cells] == [0.25, 0.75, 1 / 6]
    assert {name for name, _ in setting_of(grid.cells[0])}.isdisjoint(
        {"target_share", "target_samples", "seed"}
    )
    assert view.shares == (1 / 6, 0.25, 0.75)
    assert len(view.settings) == 2
    page = build.render_page(grid, view, [])
    assert f"16.7{NBSP}%" in page


def test_claims_compare_configured_numbers_not_the_shares_that_they_mean(amounts):
    grid, _ = amounts
    planned = [configured_axes(cell.axes) for cell in grid.cells]
    more = Hypothesis(
        text="{first} instead of {second}", source="test", axis="target_samples",
        first=900, second=300, test=Comparison.SUPERIORITY,
    )  # fmt: skip
    (claim,) = select_cells(more, planned, {})
    assert claim.pairs == ((planned[1], planned[0]),)
    longer = dataclasses.replace(more, axis="instruct.num_steps", first=600, second=400)
    (claim,) = select_cells(longer, planned, {})
    assert claim.pairs == ((planned[2], planned[0]),)
    shares = dataclasses.replace(more, axis="target_share", first=0.2, second=1.0)
    assert select_cells(shares, planned, {}) == "no cell has the axis target_share"
