"""Scores on out-of-domain benchmarks: shown with chance and blind where there are any."""

import json
import shutil
from pathlib import Path

import pytest

from reporting import build, series
from reporting.records import load_grid
from reporting.sections.out_of_domain import out_of_domain_section
from tests.support import fake_grid


@pytest.mark.slow
def test_out_of_domain_scores_are_a_section_only_where_there_are_any(tmp_path: Path) -> None:
    cells = [cell for cell in fake_grid.mix_axes() if not cell["text_only"]][:2]
    folder = fake_grid.make_grid(tmp_path, cells=cells, num_images=12)
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    view = series.view_of(grid)
    assert out_of_domain_section(grid, view) is None
    assert "Out of domain" not in build.render_page(grid, view, [])

    raw = json.loads((folder / "grid.json").read_text())
    stages = raw["cells"][1]["stages"]  # the other cell has no such result yet
    shutil.copytree(
        tmp_path / "store/evaluate" / stages["evaluate"],
        tmp_path / "store/out_of_domain/abc",
    )
    path = tmp_path / "store/out_of_domain/abc/stage.json"
    about = json.loads(path.read_text()) | {
        "kind": "out_of_domain",
        "config": {"benchmarks": ["data/embedded/photos.manifest.json"]},
    }
    path.write_text(json.dumps(about))
    stages["out_of_domain"] = "abc"
    (folder / "grid.json").write_text(json.dumps(raw))

    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    section = out_of_domain_section(grid, view)
    assert section is not None
    assert section.benchmarks == "photos"
    assert [row.share for row in section.scores.rows] == ["20\N{NO-BREAK SPACE}%"]
    titles = [(column.title, column.language) for column in section.scores.columns]
    choice = section.scores.rows[0].points[titles.index(("Caption verification", "eu"))]
    evaluated = grid.cells[1].evaluation
    assert choice is not None
    assert evaluated is not None
    assert choice.value == evaluated.scores["capqa/eu/accuracy"].value
    page = build.render_page(grid, view, [])
    assert "Out of domain: photos" in page
    assert 'href="#out-of-domain"' in page
    shown = page[page.index('id="out-of-domain"') :].partition("</section>")[0]
    assert f"chance {choice.chance:.1f}" in shown
    assert f"blind {choice.blind:.1f}" in shown
    assert "blind " not in page[page.index('id="cells"') :].partition("</section>")[0]
