"""Diagrams of a grid: files for papers (PNG, SVG), and SVG text for the page.

The page's SVG refers to its colours by CSS variables, so that one drawing serves the light and the
dark theme.
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

from core.io.files import atomic_file
from reporting.amounts import amounts_of, format_count
from reporting.records import GridRecord
from reporting.series import FIDELITY_PANEL, PANELS, Line, Panel, Point, View, lines
from reporting.settings import DESCRIPTIVE_AXES, Setting, format_axis, format_value

INK, MUTED, GRID, PAPER = "#1c2024", "#6b727c", "#e6e8eb", "#ffffff"
TARGET, BASE = "#c2410c", "#2563a8"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", TARGET: "--target", BASE: "--base"}
"""Colours of the drawings and the CSS variables that replace them on the page."""

_DASHES = ((0, (4, 2)), "-", (0, (1, 1.2)), (0, (6, 1, 1, 1)))
_MAX_BARS = 8
_MAX_LEGEND_ROW = 4
_SMALL_SIZE, _WIDE_SIZE = (4.0, 3.0), (8.6, 4.3)
_CHARS_PER_INCH = 14
"""Characters of a tick label that fit side by side at its normal size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFigure:
    """One diagram of the page."""

    title: str
    note: str
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
    apart = list(view.varying)[1:]
    if not view.is_curve and len(view.settings) * len(view.shares) <= _MAX_BARS:
        return [SettingGroup(label="", settings=view.settings)]
    by_label: dict[str, list[Setting]] = {}
    for setting in view.settings:
        label = view.label(tuple(pair for pair in setting if pair[0] in apart))
        by_label.setdefault(label, []).append(setting)
    size = len(_DASHES) if view.is_curve else _MAX_BARS
    groups = []
    for label, settings in by_label.items():
        num_parts = -(-len(settings) // size)
        for part in range(num_parts):
            suffix = f"part {part + 1} of {num_parts}" if num_parts > 1 else ""
            full_label = ", ".join(filter(None, (label, suffix)))
            chunk = tuple(settings[part * size : (part + 1) * size])
            groups.append(SettingGroup(label=full_label, settings=chunk))
    return groups


def dash_of(view: View, setting: Setting) -> tuple[int, bool]:
    """Return the index of a setting's dash pattern, and whether its markers are filled."""
    group = next(g for g in setting_groups(view) if setting in g.settings)
    is_alone = len(group.settings) == 1
    index = 1 if is_alone else group.settings.index(setting) % len(_DASHES)
    return index, index == 1


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
        figures.append(PageFigure(title=panel.title, note=panel.note, svg=svg, wide_svg=wide_svg))
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
        with _plot_style():
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
    with _plot_style():
        matplotlib.rcParams["svg.hashsalt"] = salt
        figure = Figure(figsize=size, layout="constrained")
        _draw_panel(figure.add_subplot(), found, view)
        return _to_inline_svg(figure)


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
    if not view.is_curve:
        handles = [Patch(color=_language_colour(view, lang), label=lang) for lang in view.languages]
    constant = Line2D([], [], color=MUTED, linestyle=":", label="majority-answer baseline")
    if not view.is_curve:
        constant.set(linestyle="", marker="_")
    blind = Line2D([], [], color=MUTED, linestyle="", marker="x", label="without the image")
    return [*handles, constant, blind]


def _draw_panel(axes: Axes, found: Sequence[Line], view: View) -> None:
    if view.is_curve:
        _draw_curves(axes, found, view)
        labels = [_share_label(found, share) for share in view.shares]
        has_amounts = any("\n" in label for label in labels)
        amounts = "\nnumber of images; answer tokens" if has_amounts else ""
        axes.set_xlabel(f"share of images in the target language ({view.target}){amounts}")
        axes.set_xticks(view.shares, labels, fontsize=7 if has_amounts else None)
    else:
        _draw_bars(axes, found, view)
    axes.set_ylim(0, 103)  # a marker at 100 % must not be cut off
    axes.set_yticks(range(0, 101, 20))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _share_label(found: Sequence[Line], share: float) -> str:
    """Return a share with the images and answer tokens behind it, where all lines agree on them.

    They agree if they print the same: lines with other seeds have other means of tokens.
    """
    points = [point for line in found if (point := line.at(share)) is not None]
    amounts = [amounts_of(point.cells) for point in points]
    texts = {
        f" %\n{target.num_different:,}\n{format_count(target.num_loss_tokens)}"
        for target, _ in filter(None, amounts)
    }
    is_known = len(texts) == 1 and None not in amounts
    return f"{100 * share:.3g}" + (texts.pop() if is_known else "")


def _draw_curves(axes: Axes, found: Sequence[Line], view: View) -> None:
    for line in found:
        dash, is_filled = dash_of(view, line.setting)
        colour = _language_colour(view, line.language)
        shares = [point.share for point in line.points]
        values = [point.value for point in line.points]
        bounded = [(p.share, p.low, p.high) for p in line.points if None not in (p.low, p.high)]
        if bounded:
            x, low, high = (list(column) for column in zip(*bounded, strict=True))
            axes.fill_between(x, low, high, color=colour, alpha=0.11, linewidth=0)
        axes.plot(shares, values, color=colour, linestyle=_DASHES[dash], linewidth=1.8, marker="o",
                  markersize=4.6, markeredgewidth=1.2, label=_line_label(view, line),
                  markerfacecolor=colour if is_filled else PAPER)  # fmt: skip
        for point in line.points:
            if len(point.seeds) > 1:
                axes.plot([point.share] * len(point.seeds), point.seeds, ".", color=colour,
                          markersize=3, alpha=0.6)  # fmt: skip
    for language in view.languages:
        _draw_baselines(axes, found, view, language)


def _draw_baselines(axes: Axes, found: Sequence[Line], view: View, language: str) -> None:
    """Draw the majority baseline as one level, and the blind baseline at each share."""
    in_language = [line for line in found if line.language == language]
    points = [point for line in in_language for point in line.points]
    colour = _language_colour(view, language)
    levels = [p.majority for p in points if p.majority is not None]
    if levels:
        axes.axhline(max(levels), color=colour, linewidth=0.9, linestyle=(0, (1, 2)), alpha=0.9)
    blind = [(p.share, p.blind) for p in points if p.blind is not None]
    if blind:
        axes.plot(*zip(*blind, strict=True), "x", color=colour, markersize=4, alpha=0.55,
                  markeredgewidth=1)  # fmt: skip


def _draw_bars(axes: Axes, found: Sequence[Line], view: View) -> None:
    bars = [(line, point) for line in found for point in line.points]
    names = list(dict.fromkeys(_bar_label(view, line, point) for line, point in bars))
    width = 0.38
    for line, point in bars:
        side = view.languages.index(line.language) - 0.5
        x = names.index(_bar_label(view, line, point)) + side * width
        colour = _language_colour(view, line.language)
        axes.bar(x, point.value, width * 0.92, color=colour, alpha=0.6)
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


def _line_label(view: View, line: Line) -> str:
    setting = view.label(line.setting)
    return f"{line.language}, {setting}" if setting else line.language


def _language_colour(view: View, language: str) -> str:
    return TARGET if language == view.target else BASE


@contextmanager
def _plot_style() -> Iterator[None]:
    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "irudimen", "font.family": "DejaVu Sans",
        "font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED,
        "ytick.color": MUTED, "axes.edgecolor": GRID, "axes.spines.top": False,
        "axes.spines.right": False, "axes.spines.left": False, "xtick.major.size": 0,
        "ytick.major.size": 0,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def _file_metadata(kind: str) -> dict[str, None]:
    """Leave out the date, so that equal scores give equal files."""
    return {"Date": None} if kind == "svg" else {}


def _to_inline_svg(figure: Figure) -> str:
    """Return SVG to embed in the page: no header, no fixed size, colours as CSS variables."""
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
    # The reader's machine may lack the font of the drawing; the page's font stack is safe.
    return re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
