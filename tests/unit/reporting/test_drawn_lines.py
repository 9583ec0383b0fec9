"""Figures that fit the axis: lines over a numeric axis, bars over names, logarithmic scales."""

import itertools
from pathlib import Path

import pytest

from configuration.axes import AxisValue
from reporting import build
from reporting.records import load_grid
from reporting.sections import figures
from reporting.sections.drawn_lines import (
    drawn_lines,
    is_logarithmic,
    label_line,
    line_keys,
    x_ticks,
)
from reporting.series import MAIN_PANEL, View, lines, make_view, view_of
from reporting.settings import NBSP
from reporting.tracking.payload import curves
from tests.support import fake_grid

RATES = (1e-5, 1e-4, 1e-3)
KINDS = ("linear", "mlp2x_gelu")


def view(shares: tuple[float, ...] = (0.2,), **axes: tuple[AxisValue, ...]) -> View:
    names = [name.replace("__", ".") for name in axes]
    settings = tuple(
        tuple(zip(names, values, strict=True)) for values in itertools.product(*axes.values())
    )
    number = len(settings) * len(shares)
    return make_view(
        base="en", target="eu", settings=settings, shares=shares, seeds=(0,), num_places=number
    )


@pytest.mark.parametrize(
    ("shown", "axis"),
    [
        (view(optim__lr=RATES, kind=KINDS), "optim.lr"),
        (view(optim__lr=RATES, num_steps=(1, 2, 3, 4)), "num_steps"),
        (view(optim__lr=RATES, shares=(0.0, 0.2, 1.0)), "target_share"),
        (view(optim__lr=RATES[:2], kind=KINDS), ""),
        (view(optim__lr=(None, *RATES), kind=KINDS), ""),
        (view(text_only=(False, True), kind=KINDS), ""),
        (view(kind=KINDS), ""),
    ],
)
def test_lines_are_drawn_over_numbers_only(shown: View, axis: str) -> None:
    assert shown.x_axis == axis


def test_cells_that_share_no_line_are_bars() -> None:
    settings = tuple((("lr", rate), ("kind", f"k{rate}")) for rate in RATES)
    for shares in ((0.2,), (0.0, 0.2, 1.0)):
        shown = make_view(
            base="en", target="eu", settings=settings, shares=shares, seeds=(0,), num_places=3
        )
        assert shown.x_axis == ""


def test_names_of_lines_leave_out_the_x_axis() -> None:
    shown = view(optim__lr=RATES, kind=KINDS, shares=(0.2, 1.0))
    assert [label_line(shown, key) for key in line_keys(shown)] == [
        f"kind = {kind}, {share}{NBSP}% share" for kind in KINDS for share in (20, 100)
    ]
    assert [figures.dash_of(shown, key)[0] for key in line_keys(shown)] == [0, 1, 2, 3]
    assert [group.label for group in figures.setting_groups(shown)] == [""]


def test_further_axes_have_diagrams_of_their_own() -> None:
    shown = view(optim__lr=RATES, kind=KINDS, style=("a", "b"))
    groups = figures.setting_groups(shown)
    assert [(group.label, len(group.settings)) for group in groups] == [
        ("style = a", 6), ("style = b", 6)
    ]  # fmt: skip


def test_values_that_span_orders_of_magnitude_are_on_a_logarithmic_scale() -> None:
    assert is_logarithmic(view(optim__lr=RATES))
    assert not is_logarithmic(view(num_steps=(300, 600, 1200)))
    assert not is_logarithmic(view(noise=(0.0, 0.1, 10.0)))
    assert x_ticks([], view(optim__lr=RATES)) == ([1e-5, 1e-4, 1e-3], ["1e-05", "0.0001", "0.001"])


@pytest.mark.slow
def test_a_report_draws_a_numeric_axis(tmp_path: Path) -> None:
    fake_grid.make_grid(tmp_path, "connector", cells=fake_grid.connector_axes(), num_images=6)
    grid = load_grid(tmp_path, "connector", "embedded")
    shown = view_of(grid)
    drawn = drawn_lines(lines(grid, shown, MAIN_PANEL), shown)
    assert [(line.language, dict(line.key)["model.connector.kind"]) for line in drawn] == [
        (language, kind) for language in ("eu", "en") for kind in KINDS
    ]
    assert all(line.places == (300.0, 600.0, 1200.0) for line in drawn)
    page = build.build_report("connector", root=tmp_path).read_text()
    assert "Accuracy by instruct.num_steps" in page
    assert "over_instruct.num_steps/vqa/eu/accuracy/kind_linear" in curves(grid)
