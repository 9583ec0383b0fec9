"""Diagrams of a grid: files for papers (PNG, SVG), and SVG text for the page.

The page's SVG refers to its colours by CSS variables, so that one drawing serves the light and the
dark theme.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from core.io.files import atomic_file
from reporting.records import GridRecord
from reporting.sections.drawn_lines import (
    DrawnLine,
    drawn_lines,
    is_logarithmic,
    label_line,
    line_key,
    x_ticks,
)
from reporting.sections.inline_svg import (
    BASE,
    GRID,
    INK,
    MUTED,
    PAPER,
    TARGET,
    TIP,
    plot_style,
    to_inline_svg,
)
from reporting.series import FIDELITY_PANEL, PANELS, Line, Panel, Point, View, lines
from reporting.settings import DESCRIPTIVE_AXES, SHARE, Setting, format_axis, format_value

_DASHES = ((0, (4, 2)), "-", (0, (1, 1.2)), (0, (6, 1, 1, 1)))
_MAX_BARS = 8
_MAX_LEGEND_ROW = 4
_SMALL_SIZE, _WIDE_SIZE = (4.0, 3.0), (8.6, 4.3)
_BAR_WIDTH = 0.38
_CHARS_PER_INCH = 14
"""Characters of a tick label that fit side by side at its normal size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFigure:
    """One diagram of the page."""

    title: str
    note: str
    description: str
    """All values in words, for readers who can't see the drawing."""
    svg: str
    wide_svg: str
    """A version for wide screens (main diagram only), in which text keeps its size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingGroup:
    """Settings that share a diagram, where dashes distinguish them."""

    label: str
    settings: tuple[Setting, ...]


def setting_groups(view: View) -> list[SettingGroup]:
    """Split the settings into diagrams with at most four lines each.

    The first varying axis distinguishes the lines of a diagram, and each combination of the other
    axes has its own diagram. Settings that fit into one diagram as bars stay together.
    """
    if not view.x_axis and len(view.settings) * len(view.shares) <= _MAX_BARS:
        return [SettingGroup(label="", settings=view.settings)]
    apart = [name for name in view.varying if name != view.x_axis][1:]
    by_label: dict[str, dict[Setting, list[Setting]]] = {}
    for setting in view.settings:
        label = view.label(tuple(pair for pair in setting if pair[0] in apart))
        first = line_key(view, setting, view.shares[0])
        by_label.setdefault(label, {}).setdefault(first, []).append(setting)
    num_shares = len(view.shares) if view.x_axis not in ("", SHARE) else 1
    size = max(1, len(_DASHES) // num_shares) if view.x_axis else _MAX_BARS
    groups = []
    for label, settings_of in by_label.items():
        lines_here = list(settings_of.values())
        num_parts = -(-len(lines_here) // size)
        for part in range(num_parts):
            suffix = f"part {part + 1} of {num_parts}" if num_parts > 1 else ""
            full_label = ", ".join(filter(None, (label, suffix)))
            chunk = lines_here[part * size : (part + 1) * size]
            settings = tuple(setting for same in chunk for setting in same)
            groups.append(SettingGroup(label=full_label, settings=settings))
    return groups


def dash_of(view: View, key: Setting) -> tuple[int, bool]:
    """Return the index of a line's dash pattern, and whether its markers are filled.

    Args:
        view: The grid.
        key: Key of the line (`line_key`).
    """
    for group in setting_groups(view):
        members = ((setting, share) for setting in group.settings for share in view.shares)
        keys = list(dict.fromkeys(line_key(view, *member) for member in members))
        if key in keys:
            index = 1 if len(keys) == 1 else keys.index(key) % len(_DASHES)
            return index, index == 1
    raise ValueError(f"no line of the grid has the key {key}")


def page_figures(grid: GridRecord, view: View, group: SettingGroup) -> list[PageFigure]:
    """Draw the diagrams of one group, the main one also in a wide version."""
    figures = []
    for panel in (*PANELS, FIDELITY_PANEL):
        found = [x for x in lines(grid, view, panel) if x.setting in group.settings]
        if not found:
            continue
        salt = f"{group.label}-{panel.key}"
        svg = page_svg(found, view, _SMALL_SIZE, salt=salt)
        wide_svg = ""
        if panel is PANELS[0]:
            wide_svg = page_svg(found, view, _WIDE_SIZE, salt=f"{salt}-wide")
        figures.append(
            PageFigure(
                title=panel.title,
                note=panel.note,
                description=f"{panel.title}. {describe_lines(found, view)}",
                svg=svg,
                wide_svg=wide_svg,
            )
        )
    return figures


def save_figures(grid: GridRecord, view: View, folder: Path) -> list[Path]:
    """Save one figure per group with all its panels, as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, group in enumerate(setting_groups(view)):
        drawn = [(p, [x for x in lines(grid, view, p) if x.setting in group.settings])
                 for p in PANELS]  # fmt: skip
        drawn = [(panel, found) for panel, found in drawn if found]
        if not drawn:
            continue
        with plot_style():
            figure = _combine_panels(drawn, view, title=group.label)
            suffix = f"-{number + 1}" if number else ""
            for kind in ("png", "svg"):
                path = folder / f"accuracy{suffix}.{kind}"
                matplotlib.rcParams["svg.fonttype"] = "path"
                with atomic_file(path) as file:
                    figure.savefig(
                        file, format=kind, dpi=160, facecolor=PAPER, metadata=_file_metadata(kind)
                    )
                paths.append(path)
    return paths


def page_svg(found: Sequence[Line], view: View, size: tuple[float, float], *, salt: str) -> str:
    """Draw one diagram as SVG text; the salt keeps the ids of a page's drawings distinct."""

    def draw(axes: Axes) -> None:
        _draw_panel(axes, found, view)
        _draw_tips(axes, found, view)

    return drawing_svg(draw, size, salt=salt)


def drawing_svg(draw: Callable[[Axes], None], size: tuple[float, float], *, salt: str) -> str:
    """Draw something in the style of the page as SVG text; sizes are in inches."""
    with plot_style():
        matplotlib.rcParams["svg.hashsalt"] = salt
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        return to_inline_svg(figure)


def describe_lines(found: Sequence[Line], view: View) -> str:
    """Return the values of all lines in words."""
    parts = []
    for line in found:
        values = "; ".join(
            f"{_bar_label(view, line, point)}: {point.value:.1f} %".replace("\n", " ")
            for point in line.points
        )
        parts.append(f"Questions in {line.language}: {values}.")
    return " ".join(parts)


def _draw_tips(axes: Axes, found: Sequence[Line], view: View) -> None:
    """Draw invisible marks that show their values when the pointer is over them."""
    names = list(dict.fromkeys(_bar_label(view, x, point) for x in found for point in x.points))
    drawn = drawn_lines(found, view) if view.x_axis else []
    marks = [
        (place, line.language, label_line(view, line.key), point)
        for line in drawn
        for place, point in zip(line.places, line.points, strict=True)
    ]
    if not view.x_axis:
        marks = [
            (
                names.index(_bar_label(view, line, point))
                + (view.languages.index(line.language) - 0.5) * _BAR_WIDTH,
                line.language,
                view.label(line.setting),
                point,
            )
            for line in found
            for point in line.points
        ]
    for place, language, label, point in marks:
        text = f"{language}, share {100 * point.share:g} %: {point.value:.1f} %"
        if point.low is not None and point.high is not None:
            text += f" (95 % interval {point.low:.1f} to {point.high:.1f})"
        (mark,) = axes.plot([place], [point.value], "o", markersize=11, alpha=0.0)
        mark.set_gid(TIP + ", ".join(filter(None, (text, label))))


def _combine_panels(drawn: Sequence[tuple[Panel, list[Line]]], view: View, *, title: str) -> Figure:
    num_columns = min(3, len(drawn))
    num_rows = -(-len(drawn) // num_columns)
    size = (4.0 * num_columns, 3.1 * num_rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    for index, (panel, found) in enumerate(drawn):
        axes = figure.add_subplot(num_rows, num_columns, index + 1)
        _draw_panel(axes, found, view)
        axes.set_title(panel.title, loc="left", fontsize=11, color=INK)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    handles = _legend_handles(figure.axes[0], view)
    # More than three long labels in a row would be cut off at the edges.
    num_legend_columns = len(handles) if len(handles) <= _MAX_LEGEND_ROW else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=num_legend_columns,
                  frameon=False, fontsize=9)  # fmt: skip
    return figure


def _legend_handles(axes: Axes, view: View) -> list[Artist]:
    handles: list[Artist] = list(axes.get_legend_handles_labels()[0])
    if not view.x_axis:
        handles = [Patch(color=_language_colour(view, lang), label=lang) for lang in view.languages]
    constant = Line2D([], [], color=MUTED, linestyle=":", label="majority-answer baseline")
    if not view.x_axis:
        constant.set(linestyle="", marker="_")
    blind = Line2D([], [], color=MUTED, linestyle="", marker="x", label="without the image")
    return [*handles, constant, blind]


def _draw_panel(axes: Axes, found: Sequence[Line], view: View) -> None:
    if view.x_axis:
        _draw_curves(axes, found, view)
        _draw_x_axis(axes, found, view)
    else:
        _draw_bars(axes, found, view)
    axes.set_ylim(0, 103)  # a marker at 100 % must not be cut off
    axes.set_yticks(range(0, 101, 20))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_x_axis(axes: Axes, found: Sequence[Line], view: View) -> None:
    ticks, labels = x_ticks(found, view)
    has_amounts = any("\n" in label for label in labels)
    if is_logarithmic(view):
        axes.set_xscale("log")
        axes.minorticks_off()
    title = view.titles[view.x_axis]
    if view.x_axis == SHARE:
        amounts = "\nnumber of images; answer tokens" if has_amounts else ""
        title = f"share of images in the target language ({view.target}){amounts}"
    axes.set_xlabel(title)
    style: dict[str, Any] = {"fontsize": 7} if has_amounts else {}
    if view.x_axis != SHARE:
        style = _tick_style(axes, labels)
    axes.set_xticks(ticks, labels, **style)


def _draw_curves(axes: Axes, found: Sequence[Line], view: View) -> None:
    drawn = drawn_lines(found, view)
    for line in drawn:
        dash, is_filled = dash_of(view, line.key)
        colour = _language_colour(view, line.language)
        values = [point.value for point in line.points]
        pairs = list(zip(line.places, line.points, strict=True))
        bounded = [(x, p.low, p.high) for x, p in pairs if None not in (p.low, p.high)]
        if bounded:
            x, low, high = (list(column) for column in zip(*bounded, strict=True))
            axes.fill_between(x, low, high, color=colour, alpha=0.11, linewidth=0)
        axes.plot(line.places, values, color=colour, linestyle=_DASHES[dash], linewidth=1.8,
                  marker="o", markersize=4.6, markeredgewidth=1.2, label=_label_drawn(view, line),
                  markerfacecolor=colour if is_filled else PAPER)  # fmt: skip
        for place, point in pairs:
            if len(point.seeds) > 1:
                axes.plot([place] * len(point.seeds), point.seeds, ".", color=colour,
                          markersize=3, alpha=0.6)  # fmt: skip
    for language in view.languages:
        _draw_baselines(axes, [x for x in drawn if x.language == language], view, language)


def _draw_baselines(axes: Axes, drawn: Sequence[DrawnLine], view: View, language: str) -> None:
    """Draw the majority baseline as one level, and the blind baseline at each place."""
    pairs = [pair for line in drawn for pair in zip(line.places, line.points, strict=True)]
    colour = _language_colour(view, language)
    levels = [p.majority for _, p in pairs if p.majority is not None]
    if levels:
        axes.axhline(max(levels), color=colour, linewidth=0.9, linestyle=(0, (1, 2)), alpha=0.9)
    blind = [(x, p.blind) for x, p in pairs if p.blind is not None]
    if blind:
        axes.plot(*zip(*blind, strict=True), "x", color=colour, markersize=4, alpha=0.55,
                  markeredgewidth=1)  # fmt: skip


def _draw_bars(axes: Axes, found: Sequence[Line], view: View) -> None:
    bars = [(line, point) for line in found for point in line.points]
    names = list(dict.fromkeys(_bar_label(view, line, point) for line, point in bars))
    for line, point in bars:
        side = view.languages.index(line.language) - 0.5
        x = names.index(_bar_label(view, line, point)) + side * _BAR_WIDTH
        colour = _language_colour(view, line.language)
        axes.bar(x, point.value, _BAR_WIDTH * 0.92, color=colour, alpha=0.6)
        if point.low is not None and point.high is not None:
            error = [[point.value - point.low], [point.high - point.value]]
            axes.errorbar(x, point.value, yerr=error, color=INK, linewidth=1, capsize=2.5)
        for level, mark in ((point.majority, "_"), (point.blind, "x")):
            if level is not None:
                axes.plot(x, level, mark, color=INK, markersize=12 if mark == "_" else 4)
    axes.set_xticks(range(len(names)), names, **_tick_style(axes, names))
    axes.set_xlim(-0.6, len(names) - 0.4)
    if titles := [view.titles[name] for name in view.varying if name not in DESCRIPTIVE_AXES]:
        axes.set_xlabel(", ".join(titles))


def _bar_label(view: View, line: Line, point: Point) -> str:
    """Describe a bar: one line per varying axis, whose title is on the x axis if it needs one."""
    share = f"{100 * point.share:g} %"
    parts = [
        format_axis(name, value, "") if name in DESCRIPTIVE_AXES else format_value(name, value)
        for name, value in line.setting
        if name in view.varying
    ]
    if len(parts) == 1:
        parts = [parts[0].replace(" ", "\n", 1)]
    if not parts or len(view.shares) > 1:
        parts.append(share)
    return "\n".join(parts)


def _tick_style(axes: Axes, names: Sequence[str]) -> dict[str, Any]:
    """Return a size at which tick labels fit side by side, and slant those that never do."""
    figure, grid = axes.get_figure(), axes.get_gridspec()
    num_columns = grid.ncols if grid is not None else 1
    width = figure.get_figwidth() / num_columns if isinstance(figure, Figure) else _SMALL_SIZE[0]
    longest = max((len(part) for name in names for part in name.split("\n")), default=0)
    if len(names) * longest <= _CHARS_PER_INCH * width:
        return {"fontsize": 8}
    return {"fontsize": 7, "rotation": 30, "ha": "right", "rotation_mode": "anchor"}


def _label_drawn(view: View, line: DrawnLine) -> str:
    label = label_line(view, line.key)
    return f"{line.language}, {label}" if label else line.language


def _language_colour(view: View, language: str) -> str:
    return TARGET if language == view.target else BASE


def _file_metadata(kind: str) -> dict[str, None]:
    """Leave out the date, so that equal scores give equal files."""
    return {"Date": None} if kind == "svg" else {}
