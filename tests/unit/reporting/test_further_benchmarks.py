"""Benchmarks besides the main one have tables of scores and of exposures of their own."""

import json

import pyarrow as pa
import pytest

from core.config import to_plain
from evaluation.benchmarks.predictions import SCHEMA, read_predictions, write_predictions
from evaluation.metrics.aggregate import aggregate
from reporting import build, series
from reporting.records import load_grid
from reporting.sections.exposures import exposure_sentences, exposure_tables
from reporting.sections.further_benchmarks import further_benchmarks
from tests.support import fake_grid
from tests.support.fake_targets import NAMES, write_data

pytestmark = pytest.mark.slow  # four evaluations are scored twice

SECOND = "benchmark_withheld"
NUM_IMAGES = 48


def add_benchmark(root, folder):
    """Ask the questions about the first half of the images again, as a second benchmark."""
    for path in root.glob("store/evaluate/*/result/predictions.parquet"):
        rows = read_predictions(path).to_pylist()
        half = [row for row in rows if row["image_key"] < f"image-{NUM_IMAGES // 2:05d}"]
        table = pa.Table.from_pylist([*rows, *(r | {"dataset": SECOND} for r in half)], SCHEMA)
        write_predictions(path, table)
        metrics = {name: to_plain(value) for name, value in aggregate(table, seed=0).items()}
        (path.parent / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    about = json.loads((folder / "grid.json").read_text())
    about["benchmarks"].append(f"data/embedded/{SECOND}")
    (folder / "grid.json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("grid")
    cells = [
        cell
        for cell in fake_grid.mix_axes(seeds=(0, 1))
        if not cell["text_only"] and cell["target_share"] in (0.2, 1.0)
    ]
    folder = fake_grid.make_grid(tmp_path, cells=cells, num_images=NUM_IMAGES)
    write_data(tmp_path, "instruct", NAMES, {"etxea": 5})
    assert "Further benchmarks" not in build.render_page(*load(tmp_path), [])
    add_benchmark(tmp_path, folder)
    return tmp_path


def load(root):
    grid = load_grid(root, "mix_ablation", "embedded")
    return grid, series.view_of(grid)


def test_each_further_benchmark_has_a_table_with_baselines(root):
    grid, view = load(root)
    (found,) = further_benchmarks(grid, view)
    assert found.name == SECOND
    assert len(found.scores.rows) == 2
    column = [(c.title, c.language) for c in found.scores.columns].index(("Other questions", "eu"))
    for row in found.scores.rows:
        point = row.points[column]
        own = [
            r["score"]
            for cell in point.cells
            for r in read_predictions(cell.evaluation.predictions).to_pylist()
            if (r["dataset"], r["language"], r["benchmark"], r["answer_type"])
            == (SECOND, "eu", "vqa", "other")
        ]
        assert point.num_images == NUM_IMAGES // 2
        assert point.value == pytest.approx(100 * sum(own) / len(own))
        assert point.low < point.high  # over two seeds: from the questions of this benchmark
    page = build.render_page(grid, view, [])
    shown = page[page.index('id="further"') :].partition("</section>")[0]
    assert f"<h3>{SECOND}</h3>" in shown
    assert "blind " in shown
    assert "chance " in shown


def test_exposures_of_a_further_benchmark_are_counted_but_are_no_limitation(root):
    grid, view = load(root)
    tables = {(t.benchmark, t.title): t for t in exposure_tables(grid, view)}
    title = "Open questions without numbers and yes/no"
    main, second = tables["", title], tables[SECOND, f"{title}, {SECOND}"]
    for one, other in zip(main.rows, second.rows, strict=True):
        numbers = [sum(group.num_questions for group in row.groups) for row in (one, other)]
        assert numbers[0] == 2 * numbers[1] > 0
    assert exposure_sentences([main])
    assert not exposure_sentences([second])
