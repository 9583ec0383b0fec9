"""Lines of a diagram: scores over the share of the target language, or over a numeric axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reporting.amounts import amounts_of, format_count
from reporting.series import Line, Point, View
from reporting.settings import SHARE, Setting, format_percent, format_value

_LOG_RATIO = 8.0
"""Largest value divided by the smallest one from which an axis of positive numbers is
logarithmic."""
_MAX_TICKS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnLine:
    """Points of one line in one language, from left to right."""

    language: str
    key: Setting
    """What the points have in common; see `line_key`."""
    places: tuple[float, ...]
    """Positions on the x axis."""
    points: tuple[Point, ...]


def line_key(view: View, setting: Setting, share: float) -> Setting:
    """Return what distinguishes the line of a point from others: its axes except that of x."""
    if view.x_axis in ("", SHARE):
        return setting
    key = tuple(pair for pair in setting if pair[0] != view.x_axis)
    return (*key, (SHARE, share)) if len(view.shares) > 1 else key


def line_keys(view: View) -> tuple[Setting, ...]:
    """Return the keys of all lines of a grid, in its order."""
    return tuple(
        dict.fromkeys(line_key(view, setting, share)
                      for setting in view.settings for share in view.shares)
    )  # fmt: skip


def label_line(view: View, key: Setting) -> str:
    """Describe a line by the axes in which lines differ; empty if there is one."""
    shares = [format_percent(float(str(value))) for name, value in key if name == SHARE]
    return ", ".join(filter(None, (view.label(key), *(f"{share} share" for share in shares))))


def drawn_lines(found: Sequence[Line], view: View) -> list[DrawnLine]:
    """Arrange the points of settings as lines over the x axis of the view."""
    places: dict[tuple[str, Setting], list[tuple[float, Point]]] = {}
    for line in found:
        for point in line.points:
            x = point.share if view.x_axis == SHARE else dict(line.setting)[view.x_axis]
            place = (line.language, line_key(view, line.setting, point.share))
            places.setdefault(place, []).append((float(str(x)), point))
    drawn = []
    for (language, key), pairs in places.items():
        pairs.sort(key=lambda pair: pair[0])
        xs, points = zip(*pairs, strict=True)
        drawn.append(DrawnLine(language=language, key=key, places=xs, points=points))
    return drawn


def is_logarithmic(view: View) -> bool:
    """Return whether the values of the x axis span too much for a linear scale."""
    values = x_values(view)
    return view.x_axis != SHARE and values[0] > 0 and values[-1] / values[0] >= _LOG_RATIO


def x_values(view: View) -> list[float]:
    """Return the values of the x axis in ascending order."""
    if view.x_axis == SHARE:
        return list(view.shares)
    return sorted(float(str(value)) for value in view.varying[view.x_axis])


def x_ticks(found: Sequence[Line], view: View) -> tuple[list[float], list[str]]:
    """Return the ticks of the x axis and their labels."""
    values = x_values(view)
    if view.x_axis == SHARE:
        return values, [_label_share(found, share) for share in values]
    step = math.ceil(len(values) / _MAX_TICKS)
    by_value = {float(str(value)): value for value in view.varying[view.x_axis]}
    kept = values[::step]
    return kept, [format_value(view.x_axis, by_value[value]) for value in kept]


def _label_share(found: Sequence[Line], share: float) -> str:
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
