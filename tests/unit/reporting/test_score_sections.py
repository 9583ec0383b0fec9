"""Score tables: unparsed replies, reply language, sets of best cells, seeds, and image use."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.config import to_plain
from core.rng import named_rng
from evaluation.benchmarks.predictions import SCHEMA, read_predictions, write_predictions
from evaluation.benchmarks.reasked import WORDED_KINDS
from evaluation.canaries import Canaries, ImageUse, check_image_use
from evaluation.metrics.aggregate import aggregate
from evaluation.wordings import WORDING_SCHEMA, wording_metrics
from reporting import build, series
from reporting.best_set import not_below_best
from reporting.item_scores import ItemQuery, question_scores, seed_averaged_interval
from reporting.records import GridRecord, load_grid
from reporting.sections import tables
from reporting.sections.caveats import caveats
from reporting.sections.image_use import image_use_table
from reporting.sections.language_collapse import collapse_sentences, language_collapse
from tests.support import fake_grid

pytestmark = pytest.mark.slow
"""Every test builds a report or decides claims."""

_IMAGES = 40


def change_rows(root: Path, change) -> tuple[GridRecord, series.View]:
    """Rewrite the predictions of every cell with a function of a row, and its metrics."""
    for path in root.glob("store/evaluate/*/result/predictions.parquet"):
        rows = [{**row, **change(row)} for row in read_predictions(path).to_pylist()]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        write_predictions(path, table)
        metrics = {name: to_plain(value) for name, value in aggregate(table, seed=0).items()}
        (path.parent / "metrics.json").write_text(json.dumps({"metrics": metrics}))
        checks = check_image_use(table, {}, seed=0)
        Canaries(groups=checks, num_alone=32, num_changed=0).save(path.parent)
    grid = load_grid(root, "mix_ablation", "embedded")
    return grid, series.view_of(grid)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    cells = [cell for cell in fake_grid.mix_axes() if not cell["text_only"]]
    fake_grid.make_grid(tmp_path, cells=cells[:3], num_images=_IMAGES)
    return tmp_path


def test_unparsed_replies_stand_beside_closed_scores_and_explain_them(root: Path) -> None:
    """Finding H5: caption checks below chance because half of the replies can't be read."""

    def change(row: dict) -> dict:
        if (row["benchmark"], row["language"]) != ("capqa", "en"):
            return {}
        at = int(row["image_key"].removeprefix("image-"))
        is_read = at % 2 == 0
        parsed = ("yes" if at % 4 == 0 else "no") if is_read else None
        return {"parsed": parsed, "score": float(parsed == "yes"), "is_refusal": not is_read}

    grid, view = change_rows(root, change)
    table = tables.score_table(grid, view)
    names = [(column.title, column.language) for column in table.columns]
    point = table.rows[0].points[names.index(("Caption verification", "en"))]
    assert point is not None
    assert (point.unparsed, point.refusals) == (50, 50)
    assert table.rows[0].points[names.index(("VQA accuracy", "en"))].unparsed is None
    (sentence,) = tables.below_chance_sentences(grid, view)
    text = sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert "3 of 3 scores are below chance (50 %); 50 % of the replies can't be parsed" in text
    page = build.render_page(grid, view, [])
    assert "50&nbsp;% unparsed" in page
    assert "50.0&nbsp;% refusals" in page


def test_truncated_replies_are_a_column_and_a_limitation(root: Path) -> None:
    """Two thirds of the replies were cut off, and no page said so."""

    def change(row: dict) -> dict:
        at = int(row["image_key"].removeprefix("image-"))
        return {"is_truncated": row["language"] == "eu" and at % 4 == 0}

    grid, view = change_rows(root, change)
    table = tables.score_table(grid, view)
    names = [(column.title, column.language) for column in table.columns]
    values = {
        language: table.rows[0].points[names.index(("Truncated replies", language))].value
        for language in ("eu", "en")
    }
    assert values == {"eu": 25, "en": 0}
    notes = [note for note in caveats(grid, view) if "token limit" in note]
    assert len(notes) == 1
    assert "Up to 25.0 % of the replies to questions in eu (" in notes[0]
    assert "Truncated replies" in build.render_page(grid, view, [])


def test_failed_stage_runs_stand_above_the_summary(tmp_path: Path) -> None:
    cells = fake_grid.mix_axes()[:3]
    fake_grid.make_grid(tmp_path, cells=cells, num_images=_IMAGES, unfinished=1)
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    page = build.render_page(grid, series.view_of(grid), [])
    assert "<b>1 of " in page
    assert page.index("stage runs failed</b>") < page.index('class="lead"')
    assert "DataError: shard is missing" in page


def test_a_cell_that_replies_in_the_other_language_is_told_from_one_that_forgot(root: Path) -> None:
    """Finding M6: English at 0.5 %, because the replies are Basque."""

    def change(row: dict) -> dict:
        if row["language"] != "en" or row["benchmark"] != "vqa":
            return {}
        is_asked = row["image_key"] == "image-00000"
        zero = {"score": 0.0, "score_lmms": 0.0, "score_aware": 0.0}
        return {**({} if is_asked else zero), "is_in_language": is_asked,
                "score_any_language": float(row["score"])}  # fmt: skip

    grid, view = change_rows(root, change)
    found = {(entry.language, entry.share): entry for entry in language_collapse(grid, view)}
    assert len(found) == 6
    lost = found["en", 0.2]
    assert lost.is_collapsed
    assert lost.fidelity == pytest.approx(100 / _IMAGES)
    assert lost.accuracy_any_language > 40 > lost.accuracy
    assert not found["eu", 0.2].is_collapsed
    sentences = collapse_sentences(grid, view)
    assert len(sentences) == 3
    assert all("language of the replies rather than to forgetting" in text for text in sentences)
    assert sentences[0] in build.render_page(grid, view, [])


def test_knowledge_that_is_lost_in_both_languages_is_not_called_a_language_switch(
    root: Path,
) -> None:
    def change(row: dict) -> dict:
        zero = {"score": 0.0, "score_lmms": 0.0, "score_aware": 0.0, "score_any_language": 0.0}
        return {**zero, "is_in_language": False} if row["benchmark"] == "vqa" else {}

    sentences = collapse_sentences(*change_rows(root, change))
    assert sentences
    assert all("right in the other language either" in text for text in sentences)


def test_the_three_vqa_scores_and_unanimous_questions_are_shown(root: Path) -> None:
    """Finding C4: the official score is shown next to the one that always normalises."""
    grid, view = change_rows(root, lambda row: {"score": 0.0} if row["benchmark"] == "vqa" else {})
    table = tables.vqa_score_table(grid, view)
    assert [c.title for c in table.columns] == [
        "official", "official", "lmms-eval", "lmms-eval", "language-aware", "language-aware",
    ]  # fmt: skip
    points = table.rows[0].points
    assert points[0].value == 0 < points[2].value == points[4].value
    assert tables.unanimity_sentences(grid, view)[0].startswith("In eu, 160 of 160 questions (100")


def test_likelihoods_and_wordings_have_tables_if_they_were_measured(root: Path) -> None:
    def change(row: dict) -> dict:
        is_closed = row["benchmark"] in ("mc", "capqa")
        return {"likeliest_score": 1.0, "blind_likeliest_score": 0.25} if is_closed else {}

    grid, view = change_rows(root, lambda row: {})
    assert not tables.likelihood_table(grid, view).columns
    assert "Wording of the instruction" not in build.render_page(grid, view, [])
    for path in root.glob("store/evaluate/*/result/predictions.parquet"):
        predictions = read_predictions(path)
        kinds = pa.array([kind.value for kind in WORDED_KINDS])
        asked = predictions.filter(pc.is_in(predictions["benchmark"], kinds))
        wordings = pa.Table.from_pylist(
            [{**row, "wording": "short_cue", "score": 0.0} for row in asked.to_pylist()],
            schema=WORDING_SCHEMA,
        )
        rows = [{**row, **change(row)} for row in predictions.to_pylist()]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        metrics = aggregate(table, seed=0)
        metrics |= wording_metrics(table, wordings, "bare", seed=0)
        content = {name: to_plain(value) for name, value in metrics.items()}
        (path.parent / "metrics.json").write_text(json.dumps({"metrics": content}))
    grid = load_grid(root, "mix_ablation", "embedded")
    likelihoods, wordings = (
        make(grid, view) for make in (tables.likelihood_table, tables.wording_table)
    )
    assert {(p.value, p.blind) for p in likelihoods.rows[0].points} == {(100, 25)}
    titles = [f"VQA, {name}" for name in ("lowest", "highest", "mean", "difference")]
    assert [c.title for c in wordings.columns if c.language == "eu"][:4] == titles
    of_title = dict(zip([(c.title, c.language) for c in wordings.columns],
                        wordings.rows[0].points, strict=True))  # fmt: skip
    lowest, highest, mean, difference = (of_title[title, "eu"].value for title in titles)
    assert (lowest, mean) == (0, pytest.approx(highest / 2))
    assert difference == pytest.approx(highest) != 0
    page = build.render_page(grid, view, [])
    assert "Closed questions by likelihood" in page
    assert "Wording of the instruction" in page
    assert "blind 25.0" in page


def test_a_score_that_does_not_exceed_its_baselines_is_marked(root: Path) -> None:
    def change(row: dict) -> dict:
        is_basque = row["language"] == "eu"
        return {"blind_score": row["score"], "majority_score": 0.0} if is_basque else {
            "blind_score": 0.0, "majority_score": 0.0}  # fmt: skip

    table = tables.score_table(*change_rows(root, change))
    for row in table.rows:
        for column, point in zip(table.columns, row.points, strict=True):
            if column.title != series.TRUNCATED_PANEL.title:
                assert point.exceeds_baselines is (column.language == "en")


def test_the_set_of_best_cells_is_marked_not_the_highest(root: Path) -> None:
    """Finding H1: the underlined maximum marks noise."""
    grid, view = change_rows(root, lambda row: {"score": float(int(row["image_key"][-2:]) % 2)})
    table = tables.score_table(grid, view)
    is_score = [column.title != series.TRUNCATED_PANEL.title for column in table.columns]
    assert all(list(row.may_be_best) == is_score for row in table.rows)


def test_the_best_set_contains_the_truly_best_and_leaves_out_the_clearly_worse() -> None:
    images = np.repeat(np.arange(100), 3).astype(str)
    truth = np.array([0.3, 0.5, 0.5, 0.5])
    kept = np.zeros(4)
    num_runs = 150
    for run in range(num_runs):
        rng = named_rng(run, "best set test")
        ease = np.repeat(rng.normal(0, 0.15, 100), 3)
        scores = (rng.random((4, 300)) < truth[:, None] + ease).astype(float)
        kept += not_below_best(scores, images)
    assert (kept[1:] / num_runs > 0.93).all()
    assert kept[0] / num_runs < 0.1
    assert not_below_best(np.ones((3, 30)), images[:30]).all()


def test_the_interval_of_several_seeds_is_that_of_the_averaged_scores(tmp_path: Path) -> None:
    """Finding H3: the mean of the ends of single intervals is an interval of nothing."""
    cells = [cell for cell in fake_grid.mix_axes((0, 1, 2)) if not cell["text_only"]]
    fake_grid.make_grid(tmp_path, cells=cells, num_images=_IMAGES)
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    view = series.view_of(grid)
    line = series.lines(grid, view, series.MAIN_PANEL)[0]
    point = line.points[1]
    assert len(point.cells) == 3
    query = ItemQuery(kind="vqa", column="score")
    interval = seed_averaged_interval(point.cells, query, "eu")
    assert interval is not None
    assert (point.low, point.high) == (100 * interval.low, 100 * interval.high)
    assert interval.value == pytest.approx(point.value / 100)
    single = [cell.evaluation.scores["vqa/eu/accuracy"] for cell in point.cells]
    mean_width = np.mean([score.ci_high - score.ci_low for score in single])
    assert point.high - point.low < mean_width
    scores = question_scores(point.cells, query, "eu")
    assert scores is not None
    assert len(scores.by_question) == 4 * _IMAGES


def test_several_seeds_exceed_their_baselines_as_a_mean(tmp_path: Path) -> None:
    """A seed at chance does not make the mean of the seeds one that shows nothing."""
    cells = [cell for cell in fake_grid.mix_axes((0, 1))
             if (cell["text_only"], cell["target_share"]) == (False, 0.2)]  # fmt: skip
    fake_grid.make_grid(tmp_path, cells=cells, num_images=_IMAGES)
    blind = load_grid(tmp_path, "mix_ablation", "embedded").cells[1].stages["evaluate"].predictions

    def change(row: dict) -> dict:
        return {"score": 1.0, "blind_score": 0.0, "majority_score": 0.0}

    change_rows(tmp_path, change)
    rows = [{**row, "score": 0.0} for row in read_predictions(blind).to_pylist()]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_predictions(blind, table)
    metrics = {name: to_plain(value) for name, value in aggregate(table, seed=0).items()}
    (blind.parent / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    point = series.lines(grid, series.view_of(grid), series.MAIN_PANEL)[0].points[0]
    assert point.cells == tuple(grid.cells)
    assert point.value == pytest.approx(50)
    assert point.exceeds_baselines is True
    assert grid.cells[1].evaluation.scores["vqa/eu/accuracy"].beats_blind > 0.05


def test_image_use_is_reported_per_language_and_answer_type(root: Path) -> None:
    """Finding H4: Basque yes/no without the image is named although all else uses it."""

    def change(row: dict) -> dict:
        is_blind = (row["language"], row["answer_type"], row["benchmark"]) == (
            "eu",
            "yes/no",
            "vqa",
        )
        value = row["score"] if is_blind else 0.0
        vqa = {"blind_score_lmms": value, "score_lmms": row["score"]}
        return {"blind_score": value, **(vqa if row["benchmark"] == "vqa" else {})}

    grid, view = change_rows(root, change)
    table = image_use_table(grid, view)
    assert [c.language for c in table.columns] == ["eu"] * 5 + ["en"] * 5
    at = [c.title for c in table.columns].index("vqa yes/no")
    for row in table.rows:
        assert row.groups[at].verdict is ImageUse.NOT_USED
        assert row.conclusion == "image used in 9 of 10 groups"
        assert row.style == "undecided"
        assert sum(group.verdict is ImageUse.USED for group in row.groups) == 9
    assert table.sentences == ("No cell uses the image for vqa yes/no questions in eu.",)
    assert table.sentences[0] in build.render_page(grid, view, [])


def test_image_use_of_several_benchmarks_names_the_benchmark(root: Path) -> None:
    """Otherwise two sentences about the same kind of question contradict each other."""
    change_rows(root, lambda row: {"blind_score": row["score"]} if row["language"] == "eu" else {})
    for at, path in enumerate(sorted(root.glob("store/evaluate/*/result/canaries.json"))):
        checks = json.loads(path.read_text())
        verdict = ImageUse.USED if at else ImageUse.NOT_USED
        (first, *_) = [g for g in checks["groups"] if (g["kind"], g["language"]) == ("mc", "eu")]
        checks["groups"].append({**first, "dataset": "second", "verdict": verdict.value})
        path.write_text(json.dumps(checks))
    grid = load_grid(root, "mix_ablation", "embedded")
    sentences = image_use_table(grid, series.view_of(grid)).sentences
    about_choice = [sentence for sentence in sentences if "mc choice questions in eu" in sentence]
    assert about_choice == [
        f"No cell uses the image for mc choice questions in eu of {first['dataset']}.",
        "1 of 3 cells does not use the image for mc choice questions in eu of second.",
    ]
