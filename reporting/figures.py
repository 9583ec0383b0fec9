"""Diagrams of a grid: one file per diagram for papers, and SVG text for the page.

The page's SVG refers to its colours by CSS variables, so that one drawing serves light and dark.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reporting.records import GridRecord
from reporting.series import (
    FIDELITY,
    PANELS,
    Line,
    Panel,
    Point,
    Setting,
    View,
    lines,
)

INK, MUTED, GRID, PAPER = "#1c2024", "#6b727c", "#e6e8eb", "#ffffff"
TARGET, BASE = "#c2410c", "#2563a8"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", TARGET: "--target", BASE: "--base"}
"""Colours of the drawings and the CSS variables that stand for them on the page."""

_DASHES = ((0, (4, 2)), "-", (0, (1, 1.2)), (0, (6, 1, 1, 1)))
_SMALL, _WIDE = (4.0, 3.0), (8.6, 4.3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A diagram for the page."""

    title: str
    note: str
    svg: str
    wide_svg: str
    """The same for wide screens (main diagram only): text would be too small if it were scaled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Settings that are drawn together: two or so, told apart by dashes."""

    label: str
    settings: tuple[Setting, ...]


def groups(view: View) -> list[Group]:
    """Split settings so that no diagram has more than four lines."""
    backbones = list(dict.fromkeys(dict(s).get("backbone") for s in view.settings))
    texts = {dict(s).get("text_only") for s in view.settings}
    if len(backbones) == 1 or len(texts) == 1:
        return [Group(label="", settings=view.settings)]
    return [
        Group(
            label=f"{name} backbone",
            settings=tuple(s for s in view.settings if dict(s).get("backbone") == name),
        )
        for name in backbones
    ]


def dash_of(view: View, setting: Setting) -> tuple[int, bool]:
    """Index of a setting's dash pattern, and whether its marks are filled."""
    group = next(g for g in groups(view) if setting in g.settings)
    is_alone = len(group.settings) == 1
    at = 1 if is_alone else group.settings.index(setting) % len(_DASHES)
    return at, at == 1


def page_drawings(grid: GridRecord, view: View, group: Group) -> list[Drawing]:
    """The diagrams of one group, the main one wide."""
    drawings = []
    for panel in (*PANELS, FIDELITY):
        found = [x for x in lines(grid, view, panel) if x.setting in group.settings]
        if not found:
            continue
        svg = _page_svg(found, view, _SMALL, salt=f"{group.label}-{panel.key}")
        wide_svg = ""
        if panel is PANELS[0]:
            wide_svg = _page_svg(found, view, _WIDE, salt=f"{group.label}-{panel.key}-wide")
        drawings.append(Drawing(title=panel.title, note=panel.note, svg=svg, wide_svg=wide_svg))
    return drawings


def save_figures(grid: GridRecord, view: View, folder: Path) -> list[Path]:
    """All panels of each group in one figure, as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, group in enumerate(groups(view)):
        drawn = [(p, [x for x in lines(grid, view, p) if x.setting in group.settings])
                 for p in PANELS]  # fmt: skip
        drawn = [(panel, found) for panel, found in drawn if found]
        if not drawn:
            continue
        with _style():
            figure = _combined(drawn, view, title=group.label)
            suffix = f"-{number + 1}" if number else ""
            for kind in ("png", "svg"):
                path = folder / f"accuracy{suffix}.{kind}"
                matplotlib.rcParams["svg.fonttype"] = "path"
                figure.savefig(path, dpi=160, facecolor=PAPER, metadata=_metadata(kind))
                paths.append(path)
    return paths


def _page_svg(found: Sequence[Line], view: View, size: tuple[float, float], *, salt: str) -> str:
    with _style():
        # Names inside a drawing are made from the salt; on one page they must not meet.
        matplotlib.rcParams["svg.hashsalt"] = salt
        figure = Figure(figsize=size, layout="constrained")
        _draw(figure.add_subplot(), found, view)
        return _inline(figure)


def _combined(drawn: Sequence[tuple[Panel, list[Line]]], view: View, *, title: str) -> Figure:
    num_columns = min(3, len(drawn))
    num_rows = -(-len(drawn) // num_columns)
    size = (4.0 * num_columns, 3.1 * num_rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    for at, (panel, found) in enumerate(drawn):
        axes = figure.add_subplot(num_rows, num_columns, at + 1)
        _draw(axes, found, view)
        axes.set_title(panel.title, loc="left", fontsize=11, color=INK)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    figure.legend(handles=_legend(figure.axes[0], view), loc="outside lower center", ncols=6,
                  frameon=False, fontsize=9)  # fmt: skip
    return figure


def _legend(axes: Axes, view: View) -> list[Artist]:
    handles: list[Artist] = list(axes.get_legend_handles_labels()[0])
    if not view.is_curve:
        handles = [Patch(color=_colour(view, lang), label=lang) for lang in view.languages]
    constant = Line2D([], [], color=MUTED, linestyle=":", label="best constant reply")
    if not view.is_curve:
        constant.set(linestyle="", marker="_")
    blind = Line2D([], [], color=MUTED, linestyle="", marker="x", label="without the image")
    return [*handles, constant, blind]


def _draw(axes: Axes, found: Sequence[Line], view: View) -> None:
    if view.is_curve:
        _draw_curves(axes, found, view)
        axes.set_xlabel(f"share of images in the target language ({view.target})")
        axes.set_xticks(view.shares, [f"{100 * share:g}" for share in view.shares])
    else:
        _draw_bars(axes, found, view)
    axes.set_ylim(0, 103)  # a mark at 100 % is drawn whole
    axes.set_yticks(range(0, 101, 20))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_curves(axes: Axes, found: Sequence[Line], view: View) -> None:
    for line in found:
        at, is_filled = dash_of(view, line.setting)
        colour = _colour(view, line.language)
        shares = [point.share for point in line.points]
        values = [point.value for point in line.points]
        bounded = [(p.share, p.low, p.high) for p in line.points if None not in (p.low, p.high)]
        if bounded:
            x, low, high = (list(column) for column in zip(*bounded, strict=True))
            axes.fill_between(x, low, high, color=colour, alpha=0.11, linewidth=0)
        axes.plot(shares, values, color=colour, linestyle=_DASHES[at], linewidth=1.8, marker="o",
                  markersize=4.6, markeredgewidth=1.2, label=_label(view, line),
                  markerfacecolor=colour if is_filled else PAPER)  # fmt: skip
        for point in line.points:
            if len(point.seeds) > 1:
                axes.plot([point.share] * len(point.seeds), point.seeds, ".", color=colour,
                          markersize=3, alpha=0.6)  # fmt: skip
    for language in view.languages:
        _draw_baselines(axes, found, view, language)


def _draw_baselines(axes: Axes, found: Sequence[Line], view: View, language: str) -> None:
    """The best constant reply is one level; the blind model differs from cell to cell."""
    mine = [line for line in found if line.language == language]
    points = [point for line in mine for point in line.points]
    colour = _colour(view, language)
    levels = [p.majority for p in points if p.majority is not None]
    if levels:
        axes.axhline(max(levels), color=colour, linewidth=0.9, linestyle=(0, (1, 2)), alpha=0.9)
    blind = [(p.share, p.blind) for p in points if p.blind is not None]
    if blind:
        axes.plot(*zip(*blind, strict=True), "x", color=colour, markersize=4, alpha=0.55,
                  markeredgewidth=1)  # fmt: skip


def _draw_bars(axes: Axes, found: Sequence[Line], view: View) -> None:
    bars = [(line, point) for line in found for point in line.points]
    names = list(dict.fromkeys(_bar_name(view, line, point) for line, point in bars))
    width = 0.38
    for line, point in bars:
        side = view.languages.index(line.language) - 0.5
        x = names.index(_bar_name(view, line, point)) + side * width
        colour = _colour(view, line.language)
        axes.bar(x, point.value, width * 0.92, color=colour, alpha=0.6)
        if point.low is not None and point.high is not None:
            error = [[point.value - point.low], [point.high - point.value]]
            axes.errorbar(x, point.value, yerr=error, color=INK, linewidth=1, capsize=2.5)
        for level, mark in ((point.majority, "_"), (point.blind, "x")):
            if level is not None:
                axes.plot(x, level, mark, color=INK, markersize=12 if mark == "_" else 4)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(-0.6, len(names) - 0.4)


def _bar_name(view: View, line: Line, point: Point) -> str:
    label = view.label(line.setting).replace(" ", "\n", 1)
    share = f"{100 * point.share:g} %"
    if len(view.settings) == 1:
        return share
    return f"{label}\n{share}" if len(view.shares) > 1 else label


def _label(view: View, line: Line) -> str:
    setting = view.label(line.setting)
    return line.language if setting == "all cells" else f"{line.language}, {setting}"


def _colour(view: View, language: str) -> str:
    return TARGET if language == view.target else BASE


@contextmanager
def _style() -> Iterator[None]:
    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "irudimen", "font.family": "DejaVu Sans",
        "font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED,
        "ytick.color": MUTED, "axes.edgecolor": GRID, "axes.spines.top": False,
        "axes.spines.right": False, "axes.spines.left": False, "xtick.major.size": 0,
        "ytick.major.size": 0,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def _metadata(kind: str) -> dict[str, None]:
    """No dates: the same numbers give the same file."""
    return {"Date": None} if kind == "svg" else {}


def _inline(figure: Figure) -> str:
    """SVG for the inside of a page: no header, no fixed size, colours as variables."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace(f"fill: {PAPER}", "fill: var(--paper)")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # The page's own fonts: those of the drawing need not be where it is read.
    return re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
