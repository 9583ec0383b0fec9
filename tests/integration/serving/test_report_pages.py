"""The pages of reports in a real browser: widths, accessibility, printing, no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reporting.build import build_report
from reporting.comparison.page import build_comparison
from reporting.comparison.sides import load_sides
from tests.support import fake_grid
from tests.support.browser import check_accessibility, check_layout, open_browser

pytestmark = pytest.mark.slow
_PAPER = 703
"""Width of an A4 page within margins of 12 mm, in CSS pixels."""


def _report(root: Path) -> Path:
    return build_report("mix_ablation", root=root)


def _comparison(root: Path) -> Path:
    names = ["mix_ablation-embedded", "other-embedded"]
    return build_comparison(load_sides(names, root), root / "comparison")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small grids, one of them with an unfinished cell."""
    root = tmp_path_factory.mktemp("pages")
    cells = [axes for axes in fake_grid.mix_axes() if axes["target_share"] in (0.0, 0.2, 1.0)][:4]
    fake_grid.make_grid(root, cells=cells, num_images=6, unfinished=1)
    fake_grid.make_grid(root, "other", cells=cells[:2], num_images=6)
    return root


@pytest.mark.parametrize("build", [_report, _comparison])
def test_a_page_fits_every_width_and_has_no_serious_finding(
    build: Callable[[Path], Path], root: Path, tmp_path: Path
) -> None:
    path = build(root)
    with open_browser() as browser:
        context = browser.new_context()
        view = context.new_page()
        errors, requests = list[str](), list[str]()
        view.on("pageerror", lambda error: errors.append(str(error)))
        view.on("request", lambda request: requests.append(request.url))
        view.goto(path.as_uri())
        check_layout(view)
        check_accessibility(view)
        _check_print(view, tmp_path / "page.pdf")
        assert not errors
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]


def _check_print(view: Any, path: Path) -> None:
    """Check that no table is wider than a sheet of paper, and print the page."""
    view.set_viewport_size({"width": _PAPER, "height": 1000})
    view.emulate_media(media="print", color_scheme="light")
    wide = "[...document.querySelectorAll('table')].filter(t => t.scrollWidth > innerWidth)"
    assert view.evaluate(f"{wide}.map(t => t.textContent.slice(0, 80))") == []
    view.pdf(path=str(path), prefer_css_page_size=True)
    assert path.stat().st_size > 10_000
