"""Comparison of grids and cells: pairing, differences that another program recomputes, the page."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, DataError
from experiments import compare
from reporting.comparison.differences import configuration_differences, paired_scores
from reporting.comparison.page import build_comparison
from reporting.comparison.sides import load_sides
from tests.support.fake_grid import make_grid, mix_axes

_RECOMPUTE = """
import sys, json
import numpy as np
import pyarrow.parquet as pq
rows = []
for path in sys.argv[1:3]:
    table = pq.read_table(path).to_pylist()
    rows.append({r["question_id"]: (r["image_key"], r["score"]) for r in table
                 if r["language"] == "eu" and r["benchmark"] == "vqa"})
first, second = rows
by_image = {}
for question, (image, score) in first.items():
    by_image.setdefault(image, []).append(second[question][1] - score)
values = np.concatenate(list(by_image.values()))
rng = np.random.default_rng(5)
groups = [np.array(v) for v in by_image.values()]
sums, sizes = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
drawn = rng.integers(0, len(groups), size=(20000, len(groups)))
means = sums[drawn].sum(1) / sizes[drawn].sum(1)
print(json.dumps([values.mean(), *np.quantile(means, [0.025, 0.975]), len(values), len(groups)]))
"""
"""Reads two predictions.parquet and compares them without code of this project."""


def _cells(seed, shares):
    return [x for x in mix_axes((seed,)) if x["target_share"] in shares and not x["text_only"]]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_grid(folder, "one", cells=_cells(0, (0.0, 0.2, 0.4, 0.8, 1.0)), num_images=120)
    cells = _cells(1, (0.0, 0.2, 0.4, 1.0))
    make_grid(folder, "two", cells=cells, num_images=120, unfinished=1)
    path = folder / "grids" / "one-embedded" / "grid.json"
    other = folder / "grids" / "two-embedded" / "grid.json"
    for file, steps in ((path, 900), (other, 1800)):
        content = json.loads(file.read_text())
        content["common"] = {"instruct.num_steps": steps, "align.num_steps": 600}
        file.write_text(json.dumps(content))
    return folder


def test_differences_equal_those_of_another_program(root):
    sides = load_sides(["one-embedded", "two-embedded"], root)
    rows = paired_scores(sides).rows
    (row,) = (
        row for row in rows
        if row.panel.key == "vqa" and row.language == "eu"
        and row.place == "without text-only data, general backbone, both stages, "
        "target-language share = 20\N{NO-BREAK SPACE}%"
    )  # fmt: skip
    paths = [
        next(c for c in side.cells if c.axes["target_share"] == 0.2 and not c.axes["text_only"])
        .stages["evaluate"]
        .predictions
        for side in sides
    ]
    done = subprocess.run(
        [sys.executable, "-c", _RECOMPUTE, *map(str, paths)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    value, low, high, num_items, num_images = json.loads(done.stdout)
    assert row.difference.value == pytest.approx(100 * value, abs=1e-9)
    assert (row.difference.num_items, row.difference.num_clusters) == (num_items, num_images)
    assert row.second - row.first == pytest.approx(row.difference.value)
    # Both resample 120 images 20,000 times, with other random numbers.
    assert row.difference.low == pytest.approx(100 * low, abs=0.3)
    assert row.difference.high == pytest.approx(100 * high, abs=0.3)


def test_only_equal_cells_are_paired_and_the_others_named(root):
    found = paired_scores(load_sides(["one-embedded", "two-embedded"], root))
    places = {row.place for row in found.rows}
    assert len(places) == 3
    assert not any("80" in place for place in places)
    text = " ".join(found.unpaired)
    assert "2 cells of one-embedded have no counterpart" in text
    assert "Not finished in two-embedded: 1.0_False_general_both_1" in text


def test_a_grid_in_the_working_directory_is_found(root, monkeypatch):
    monkeypatch.chdir(root / "grids")
    sides = load_sides(["one-embedded", "two-embedded"], root=Path("elsewhere"))
    assert len(paired_scores(sides).rows) == len(
        paired_scores(load_sides(["one-embedded", "two-embedded"], root)).rows
    )


def test_named_cells_are_compared_whatever_their_axes(root):
    names = ["one-embedded:0.0_False_general_both_0", "one-embedded:1.0_False_general_both_0"]
    sides = load_sides(names, root)
    fields = {row.name: row.values for row in configuration_differences(sides)}
    assert fields == {"cell.target_share": ("0.0", "1.0")}
    rows = paired_scores(sides).rows
    main = next(row for row in rows if row.panel.key == "vqa" and row.language == "eu")
    assert main.is_clear
    assert main.difference.value > 20


def test_the_page_is_self_contained_and_describes_its_tables(root, tmp_path, capsys):
    arguments = ["one-embedded", "two-embedded", "--root", str(root), "--out", str(tmp_path)]
    assert compare.main(arguments) == 0
    assert "excludes zero in" in capsys.readouterr().out
    page = (tmp_path / "comparison.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|differences)[^"']*""", page)
    assert '<tr><th scope="row">instruct.num_steps</th><td>900</td><td>1800</td>' in page
    assert "align.num_steps" not in page
    assert page.count("<caption>") == page.count("<table")
    assert all("scope=" in head for head in re.findall(r"<th(?=[ >])[^>]*>", page))
    values = json.loads((tmp_path / "differences.json").read_text())
    shown = re.findall(r'<td class="num[^"]*" data-value="([^"]+)">[+-]', page)
    assert sorted(map(float, shown[::2])) == pytest.approx(sorted(v["difference"] for v in values))
    low = re.findall(r"<title>A, share 20[^<]*: ([\d.]+) %", page)
    assert len(low) > 5


def test_curves_and_csv_have_every_value(root, tmp_path):
    sides = load_sides(["one-embedded", "two-embedded"], root)
    build_comparison(sides, tmp_path)
    lines = (tmp_path / "differences.csv").read_text().splitlines()
    rows = json.loads((tmp_path / "differences.json").read_text())
    assert len(lines) == 1 + len(rows)
    first = dict(zip(lines[0].split(","), lines[1].rsplit(",", 11), strict=False))
    assert np.isfinite(float(lines[1].split(",")[-7]))
    assert first


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["one-embedded", "three"], DataError, "no grid 'three'"),
        (["one-embedded", "one-embedded:0.0"], ConfigError, "unknown cell"),
        (["one-embedded", "one-embedded:0.0_False_general_both_0"], ConfigError, "not both"),
    ],
)
def test_wrong_names_are_errors(root, names, error, message):
    with pytest.raises(error, match=message):
        paired_scores(load_sides(names, root))


def test_different_benchmarks_are_reported(tmp_path):
    for at, name in enumerate(("one", "two")):
        make_grid(tmp_path / name, name, cells=mix_axes((at,))[:3])
        for path in Path(tmp_path / name).glob("store/evaluate/*/stage.json"):
            about = json.loads(path.read_text())
            benchmark = f"{tmp_path}/one/data/benchmark_test"
            about["data"] = {f"{benchmark}.manifest.json": f"hash{at}"}
            path.write_text(json.dumps(about))
        file = tmp_path / name / "grids" / f"{name}-embedded" / "grid.json"
        content = json.loads(file.read_text())
        content["benchmarks"] = [f"{tmp_path}/one/data/benchmark_test"]
        file.write_text(json.dumps(content))
    names = [str(tmp_path / name / "grids" / f"{name}-embedded") for name in ("one", "two")]
    found = paired_scores(load_sides(names, tmp_path / "one"))
    assert any("may be different questions" in sentence for sentence in found.unpaired)
