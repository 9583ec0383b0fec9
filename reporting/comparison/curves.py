"""Overlaid curves of several grids as inline SVG, whose points show their values on hover."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from reporting.comparison.sides import Side
from reporting.series import Line, Panel, lines, view_of
from reporting.settings import format_percent

_WIDTH, _HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 14, 40
_DASHES = ("", "6 4", "2 3", "9 3 2 3")
_TICKS = (0, 25, 50, 75, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """The curves of all sides for one panel and language."""

    title: str
    svg: str
    labels: tuple[tuple[str, str, str], ...]
    """Letter of the side, dash pattern and description of each line."""


def overlaid_curves(sides: Sequence[Side], panel: Panel, language: str) -> Curves | None:
    """Return the curves of the sides over the share; None if no side has a curve."""
    drawn: list[tuple[Side, str, Line, str]] = []
    for side in sides:
        view = view_of(side.grid)
        found = [line for line in lines(side.grid, view, panel) if line.language == language]
        found = [line for line in found if len(line.points) > 1]
        for at, line in enumerate(found):
            dash = _DASHES[at % len(_DASHES)]
            drawn.append((side, dash, line, view.label(line.setting)))
    if not drawn:
        return None
    parts = [_axes()]
    for side, dash, line, label in drawn:
        parts.append(_draw(side, dash, line, label))
    title = f"{panel.title} in {language} over the share of target-language data"
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}; the table '
        f'of differences has the values">{"".join(parts)}</svg>'
    )
    return Curves(
        title=title,
        svg=svg,
        labels=tuple((side.letter, dash, label) for side, dash, _, label in drawn),
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(percent: float) -> float:
    return _TOP + (1 - percent / 100) * (_HEIGHT - _TOP - _BOTTOM)


def _axes() -> str:
    parts = []
    for tick in _TICKS:
        y, x = _y(tick), _x(tick / 100)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>'
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick} %</text>'
        )
    return "".join(parts)


def _draw(side: Side, dash: str, line: Line, label: str) -> str:
    points = [(_x(point.share), _y(point.value)) for point in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = []
    for (x, y), point in zip(points, line.points, strict=True):
        text = f"{side.letter}, share {format_percent(point.share)}: {point.value:.1f} %"
        if point.low is not None and point.high is not None:
            text += f" (95 % interval {point.low:.1f} to {point.high:.1f})"
            marks.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(point.low):.1f}" '
                f'y2="{_y(point.high):.1f}"/>'
            )
        text = ", ".join(filter(None, (text, label)))
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" tabindex="0" aria-label="{escape(text)}">'
            f"<title>{escape(text)}</title></circle>"
        )
    return (
        f'<g class="side-{side.letter}"><polyline points="{path}" fill="none" '
        f'stroke-dasharray="{dash}"/>{"".join(marks)}</g>'
    )
