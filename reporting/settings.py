"""Settings: the axes that distinguish the cells of a grid besides share and seed, and their labels.

The study's own axes have descriptive labels; any other configuration field that a grid varies is
labelled with the end of its path, for example `connector.kind = linear`.
"""

from collections.abc import Mapping, Sequence

from configuration.axes import AxisValue, short_names
from reporting.records import CellRecord

SHARE = "target_share"
SEED = "seed"
TEXT_ONLY = "text_only"
NBSP = "\N{NO-BREAK SPACE}"

_BACKBONE = "backbone"
_STAGES = "stages"
_STAGE_LABELS: Mapping[AxisValue, str] = {
    "both": "both stages", "align_only": "alignment only", "instruct_only": "instruction only",
}  # fmt: skip
_TITLES: Mapping[str, str] = {
    SHARE: "target-language share",
    TEXT_ONLY: "text-only data",
    _BACKBONE: "backbone",
    _STAGES: "training stages",
}

DESCRIPTIVE_AXES = frozenset(_TITLES)
"""Axes whose values are understood without a title."""

Setting = tuple[tuple[str, AxisValue], ...]
"""Axes of a cell except share and seed, in the order of the grid's description."""


def setting_of(cell: CellRecord) -> Setting:
    """Return the axes of a cell except share and seed."""
    return tuple((name, value) for name, value in cell.axes.items() if name not in (SHARE, SEED))


def share_of(cell: CellRecord) -> float:
    """Return the share of the target language in a cell."""
    return float(cell.axes.get(SHARE) or 0.0)


def with_axis(setting: Setting, name: str, *, value: AxisValue) -> Setting:
    """Return a setting in which one axis has another value."""
    return tuple((key, value if key == name else old) for key, old in setting)


def varying_axes(settings: Sequence[Setting]) -> dict[str, tuple[AxisValue, ...]]:
    """Return the axes in which settings differ, with their values in order of appearance."""
    values: dict[str, dict[AxisValue, None]] = {}
    for setting in settings:
        for name, value in setting:
            values.setdefault(name, {})[value] = None
    return {name: tuple(found) for name, found in values.items() if len(found) > 1}


def axis_titles(names: Sequence[str]) -> dict[str, str]:
    """Map the names of axes to their titles in tables and figures."""
    paths = [name for name in names if name not in _TITLES]
    return {**_TITLES, **short_names(paths, min_parts=2)}


def format_percent(share: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * share:g}{NBSP}%"


def format_value(axis: str, value: AxisValue) -> str:
    """Format the value of an axis without the name of the axis."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if axis == SHARE and isinstance(value, float | int):
        return format_percent(value)
    if axis == _STAGES:
        return _STAGE_LABELS.get(value, str(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_axis(axis: str, value: AxisValue, title: str) -> str:
    """Format the value of an axis so that it can be understood on its own."""
    if axis == TEXT_ONLY:
        return "with text-only data" if value else "without text-only data"
    if axis == _BACKBONE:
        return f"{value} backbone"
    text = format_value(axis, value)
    return text if axis == _STAGES else f"{title} = {text}"
