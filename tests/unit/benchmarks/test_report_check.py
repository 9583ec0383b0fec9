"""Tests of the check of a finished report."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.report_check.claims import check_claims
from benchmarks.report_check.data import Checks, Grid
from benchmarks.report_check.own_statistics import intervals
from benchmarks.report_check.sentences import check_registration, check_summary
from reporting.build import build_report
from tests.support.fake_grid import make_grid

pytestmark = pytest.mark.slow  # the report of a grid


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a grid of 120 images with its report."""
    root = tmp_path_factory.mktemp("report_check")
    make_grid(root, num_images=120)
    build_report("mix_ablation", root=root)
    return root


def _open(root: Path, old: str = "", new: str = "") -> Grid:
    """Return the grid, with a text of its page replaced."""
    folder = root / "grids" / "mix_ablation-embedded"
    found = Grid(root, folder)
    page = folder / "report" / "report.html"
    original = page.read_text()
    assert old in original
    page.write_text(original.replace(old, new, 1) if old else original)
    assert found.sections  # read before the page is restored
    page.write_text(original)
    return found


def test_summary_and_registration_of_a_correct_report_agree(grid: Path) -> None:
    """A report that was not changed passes."""
    checks = Checks(is_quiet=True)
    check_registration(_open(grid), checks)
    check_summary(_open(grid), checks)
    assert checks.differing == []
    assert checks.num_equal > 10


@pytest.mark.parametrize(
    ("old", "new"),
    [("pre-registered claims", "exploratory claims"), ("before the first evaluation", "after it")],
)
def test_wrong_registration_is_found(grid: Path, old: str, new: str) -> None:
    """A headline that contradicts the times in the files differs."""
    checks = Checks(is_quiet=True)
    check_registration(_open(grid, old, new), checks)
    assert checks.differing


def test_changed_verdict_is_found(grid: Path) -> None:
    """A verdict that the data do not imply differs."""
    before, after = Checks(is_quiet=True), Checks(is_quiet=True)
    check_claims(_open(grid), before)
    swap = '<span class="badge undecided">undecided', '<span class="badge undecided">refuted'
    check_claims(_open(grid, *swap), after)
    assert len(after.differing) == len(before.differing) + 1


def test_errors_that_share_images_count_as_fewer() -> None:
    """The small-sample interval of few errors is as right as the bootstrap."""
    images = np.arange(120).repeat(4)
    apart = np.tile([1.0, 0.0, 1.0, 1.0], 120)
    together = (images >= 20).astype(float)
    assert (apart == 0).sum() == 120
    assert (together == 0).sum() == 80
    assert len(intervals(apart, images)) == 1
    assert len(intervals(together, images)) > 1
