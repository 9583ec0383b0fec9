"""The report: correct scores and verdicts, and one self-contained page for any kind of grid."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from core.errors import DataError
from evaluation.benchmarks.predictions import read_predictions, write_predictions
from experiments import report as report_command
from pipeline.store.states import State
from reporting import build, series
from reporting.examples import gallery
from reporting.records import GridRecord, load_grid
from reporting.sections import figures, inline_svg, tables
from reporting.sections.caveats import caveats
from reporting.sections.model_sizes import size_table
from reporting.study_facts.configuration import changed_fields, study_amounts
from tests.support import fake_grid
from tests.support.scored_grid import opening

pytestmark = pytest.mark.slow
"""Every test builds a report or decides claims."""

_SMALL = 12


DOWNLOADS = ("scores.md", "scores.tex", "data.bib")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grids of different shapes in one store."""
    root = tmp_path_factory.mktemp("runs")
    small = {"num_images": _SMALL}
    fake_grid.make_grid(root, "backbone_ablation", cells=fake_grid.backbone_axes(), **small)
    fake_grid.make_grid(root, "stage_ablation", cells=fake_grid.stage_axes(), **small)
    partial = [x for x in fake_grid.mix_axes((0, 1)) if x["target_share"] in (0.0, 0.2, 1.0)]
    fake_grid.make_grid(root, "partial", cells=partial, unfinished=3, **small)
    fake_grid.make_grid(root, "connector", cells=fake_grid.connector_axes(), **small)
    curve = fake_grid.connector_axes((0.0, 0.2, 1.0))
    fake_grid.make_grid(root, "connector_curve", cells=curve, **small)
    fake_grid.make_grid(root, num_images=30)
    return root


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return build.build_report("mix_ablation", root=root).read_text(encoding="utf-8")


def _load(root: Path, name: str) -> tuple[GridRecord, series.View]:
    grid = load_grid(root, name, "embedded")
    return grid, series.view_of(grid)


def test_page_needs_no_network(page: str) -> None:
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert not [
        x
        for x in links
        if not x.startswith(("data:", "figures/", "errors/", "cells.csv", *DOWNLOADS))
    ]
    assert "@import" not in page
    assert "url(" not in page.replace("url(#", "")
    assert "<script src" not in page


def test_page_has_every_part(page: str) -> None:
    for part in ("figures", "claims", "cells", "language", "gallery", "errors", "runs", "caveats"):
        assert f'<section id="{part}">' in page
    assert page.count('<img src="data:image/webp') == gallery.NUM_IMAGES
    assert page.count("<svg") > len(series.PANELS)
    assert "0123456789abcdef" in page
    assert "undefined" not in page.lower()


def test_ids_inside_drawings_are_distinct(page: str) -> None:
    names = re.findall(r'<(?:clipPath|path|marker) id="([mp][0-9a-f]{10})"', page)
    assert names
    assert len(set(names)) == len(names)


def test_drawings_follow_the_theme(page: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--target)" in drawings
    for colour in inline_svg.VARIABLES:
        assert colour not in drawings


def test_figures_and_csv_accompany_the_page(root: Path, page: str) -> None:
    del page
    folder = root / "grids" / "mix_ablation-embedded" / "report"
    assert (folder / "figures" / "accuracy.png").stat().st_size > 10_000
    assert (folder / "figures" / "accuracy.svg").read_text().startswith("<?xml")
    rows = list(csv.DictReader((folder / "cells.csv").open()))
    assert len({row["cell_id"] for row in rows}) == len(fake_grid.mix_axes())
    first = next(row for row in rows if row["metric"] == "vqa/eu/accuracy")
    grid = load_grid(root, "mix_ablation", "embedded")
    assert float(first["value"]) == _score(grid, 0)


def test_tables_have_headers_and_figures_have_values(page: str) -> None:
    assert all("scope=" in head for head in re.findall(r"<th(?=[ >])[^>]*>", page))
    labels = re.findall(r'<div role="img" aria-label="([^"]*)"', page)
    assert labels
    assert all(re.search(r"20.%?.*: \d+\.\d %", label) for label in labels)
    first = page[page.index("<svg", page.index('<div class="figures"')) :]
    titles = re.findall(r"<title>([^<]*)</title>", first[: first.index("</svg>")])
    assert sum("95 % interval" in title for title in titles) >= len(fake_grid.mix_axes())


def test_a_paper_gets_tables_and_references(root: Path, page: str) -> None:
    del page
    folder = root / "grids" / "mix_ablation-embedded" / "report"
    rows = [line.split("|")[1:-1] for line in (folder / "scores.md").read_text().splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == 2 + len(fake_grid.mix_axes())
    text = (folder / "scores.tex").read_text()
    assert text.count(r"\\") == 1 + len(fake_grid.mix_axes())
    assert r"20~\%" in text
    assert (folder / "data.bib").is_file()


def test_changed_fields_and_amounts_are_shown(root: Path) -> None:
    grid, _ = _load(root, "mix_ablation")
    changed = dataclasses.replace(
        grid, changed={"instruct.num_steps": 77}, common={"instruct.num_steps": 77}
    )
    (field,) = changed_fields(changed)
    assert (field.name, field.value, field.is_override) == ("instruct.num_steps", "77", True)
    assert field.profile_value.isdecimal()
    amounts = {one.name: one.text for one in study_amounts(grid)}
    assert amounts["instruct"].startswith("16.8 min in 12 stage runs, median 84 s; 300 steps")
    assert "last logged loss 0.520" in amounts["instruct"]


def _score(grid: GridRecord, cell: int) -> float:
    evaluation = grid.cells[cell].evaluation
    assert evaluation is not None
    return evaluation.scores["vqa/eu/accuracy"].value


def test_summary_repeats_the_scores_of_the_figures(root: Path) -> None:
    grid, view = _load(root, "mix_ablation")
    best = max(_score(grid, at) for at in range(len(grid.cells)))
    text = opening(grid, view, [])
    assert f"{best:.1f}\N{NO-BREAK SPACE}%" in text
    assert "20\N{NO-BREAK SPACE}%" in text
    assert "Adding text-only data" in text


@pytest.mark.parametrize("name", ["stage_ablation", "partial", "connector", "connector_curve"])
def test_every_kind_of_grid_gives_a_page(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "save_figures", lambda *args: [])  # saved in the test above
    page = build.build_report(name, root=root, out=root / "out" / name).read_text("utf-8")
    assert page.count("<figure") >= len(series.PANELS)


def test_stage_grid_is_drawn_as_bars(root: Path) -> None:
    _, view = _load(root, "stage_ablation")
    assert not view.is_curve
    assert [view.label(setting) for setting in view.settings] == [
        "instruction only", "alignment only", "both stages",
    ]  # fmt: skip


def test_several_seeds_are_averaged_and_their_spread_kept(root: Path) -> None:
    grid, view = _load(root, "partial")
    line = series.lines(grid, view, series.MAIN_PANEL)[0]
    point = line.at(0.0)
    assert point is not None
    assert len(point.seeds) == 2
    assert point.value == pytest.approx(np.mean(point.seeds))
    assert point.seed_spread == pytest.approx(np.std(point.seeds, ddof=1))


def test_unfinished_grid_is_reported(root: Path) -> None:
    grid, view = _load(root, "partial")
    assert "3 of 12 cells have no result" in caveats(grid, view)[0]
    states = {row.state for row in tables.stage_rows(grid)}
    assert states == {State.DONE, State.FAILED, State.WAITING}


def test_skipped_samples_are_reported(tmp_path: Path) -> None:
    fake_grid.make_grid(tmp_path, cells=fake_grid.mix_axes()[:2], num_images=_SMALL)
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    assert not any("were skipped" in note for note in caveats(grid, series.view_of(grid)))
    for stage in [stage for stage in grid.stages() if stage.kind == "instruct"]:
        summary = {"cap_eu": {"no image": {"count": 2, "examples": ["cap_eu/k: no image"]}}}
        (stage.folder / "result").mkdir(exist_ok=True)
        (stage.folder / "result" / "bad_samples.json").write_text(json.dumps(summary))
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    assert any("cap_eu" in note and "4 x no image" in note
               for note in caveats(grid, series.view_of(grid)))  # fmt: skip


def test_grid_without_results_gives_a_page(tmp_path: Path) -> None:
    cells = fake_grid.mix_axes()[:4]
    fake_grid.make_grid(tmp_path, cells=cells, unfinished=4, num_images=_SMALL)
    page = build.build_report("mix_ablation", root=tmp_path).read_text("utf-8")
    assert "None of the 4 cells has a result yet." in page


def test_equal_numbers_give_equal_drawings(root: Path) -> None:
    grid, view = _load(root, "stage_ablation")
    found = series.lines(grid, view, series.MAIN_PANEL)
    first, second = (figures.page_svg(found, view, (3.0, 2.0), salt="x") for _ in range(2))
    assert first == second


def test_html_in_replies_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "page_figures", lambda *args: [])
    fake_grid.make_grid(tmp_path, cells=fake_grid.mix_axes()[:1], num_images=_SMALL)
    path = next(tmp_path.glob("store/evaluate/*/result/predictions.parquet"))
    table = read_predictions(path)
    hostile = pa.array(["<script>alert(1)</script>"] * table.num_rows)
    at = table.schema.get_field_index("output")
    write_predictions(path, table.set_column(at, table.schema.field(at), hostile))
    grid, view = _load(tmp_path, "mix_ablation")
    page = build.render_page(grid, view, [])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_gallery_selection_is_independent_of_the_replies(root: Path) -> None:
    grid, view = _load(root, "mix_ablation")
    rows = gallery.read_rows(grid.cells[0])
    flipped = {key: {**row, "score": 1.0 - row["score"]} for key, row in rows.items()}
    assert gallery.select_questions(rows, view) == gallery.select_questions(flipped, view)


def test_report_without_images_is_still_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fake_grid.make_grid(tmp_path, cells=fake_grid.mix_axes()[:1], num_images=_SMALL)
    grid = json.loads((folder / "grid.json").read_text())
    (folder / "grid.json").write_text(json.dumps({**grid, "benchmarks": ["nowhere/benchmark"]}))
    record = load_grid(tmp_path, "mix_ablation", "embedded")
    assert gallery.build_gallery(record, series.view_of(record)) == []
    assert "no gallery" in caplog.text


def test_error_for_an_unknown_grid_lists_the_existing_ones(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(DataError, match="mix_ablation-embedded"):
        build.build_report("nonsense", root=root)
    assert report_command.main(["--exp", "nonsense", "--root", str(root)]) == 2
    assert "Run it first" in " ".join(capsys.readouterr().err.split())


# --- axes outside the study's own -----------------------------------------------------------------


def test_labels_name_the_varying_axes_only(root: Path) -> None:
    _, view = _load(root, "connector")
    assert not view.is_curve
    assert view.label(view.settings[1]) == "connector.kind = mlp2x_gelu, instruct.num_steps = 300"
    _, view = _load(root, "mix_ablation")
    assert [view.label(setting) for setting in view.settings] == [
        "without text-only data", "with text-only data",
    ]  # fmt: skip


def test_sizes_stand_next_to_scores_where_models_differ(root: Path) -> None:
    table = size_table(*_load(root, "connector"))
    assert table is not None
    row, texts = table.rows[1]
    assert row.values == ("mlp2x_gelu", "300")
    assert row.points[0] is not None
    assert [text.replace("\xa0", " ") for text in texts] == [
        "5", "5.55 M", "25 k, 1.62 M", "776 k", "3.40e+12",
    ]  # fmt: skip
    assert size_table(*_load(root, "mix_ablation")) is None
    page = build.build_report("connector", root=root).read_text(encoding="utf-8")
    assert "Size and cost of the models" in page


def test_score_table_has_a_column_per_varying_axis(root: Path) -> None:
    table = tables.score_table(*_load(root, "connector"))
    assert table.axes == ("connector.kind", "instruct.num_steps")
    assert [row.values for row in table.rows][:3] == [
        ("linear", "300"), ("mlp2x_gelu", "300"), ("linear", "600"),
    ]  # fmt: skip
    assert all(point is not None for row in table.rows for point in row.points)


def test_first_varying_axis_shares_a_diagram(root: Path) -> None:
    _, view = _load(root, "connector_curve")
    groups = figures.setting_groups(view)
    assert [group.label for group in groups] == [
        f"instruct.num_steps = {num_steps}" for num_steps in (300, 600, 1200)
    ]
    assert [len(group.settings) for group in groups] == [2, 2, 2]
    assert [figures.dash_of(view, setting)[0] for setting in groups[2].settings] == [0, 1]


def test_settings_that_fit_as_bars_share_a_diagram(root: Path) -> None:
    _, view = _load(root, "stage_ablation")
    (group,) = figures.setting_groups(view)
    assert group.settings == view.settings


def test_diagram_with_many_lines_is_split() -> None:
    settings = tuple((("backbone", f"b{number}"),) for number in range(6))
    view = series.View(base="en", target="eu", settings=settings, shares=(0.0, 0.2, 1.0),
                       seeds=(0,), is_curve=True)  # fmt: skip
    labels = [(group.label, len(group.settings)) for group in figures.setting_groups(view)]
    assert labels == [("part 1 of 2", 4), ("part 2 of 2", 2)]


def test_summary_reports_the_effect_of_every_axis(root: Path) -> None:
    grid, view = _load(root, "connector")
    text = opening(grid, view, [])
    assert "Using connector.kind = mlp2x_gelu instead of linear changes the accuracy" in text
    assert "Using instruct.num_steps = 1200 instead of 300 changes the accuracy" in text
    assert "of 3 pairs of cells" in text
