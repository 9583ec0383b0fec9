"""Settings: the axes of a grid besides amount and seed, which distinguish its cells, with labels.

The amount of target-language data is a share or, in cells that have none, a number of images. The
number of images in the base language belongs to the setting: cells with as many images in both
languages have the same share, whatever their number.

The study's own axes have descriptive labels; any other configuration field that a grid varies is
labelled with the end of its path, for example `connector.kind = linear`.
"""

from collections.abc import Mapping, Sequence

from configuration.axes import AxisValue, short_names
from reporting.records import CellRecord

SHARE = "target_share"
SAMPLES = "target_samples"
BASE_SAMPLES = "base_samples"
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
    SAMPLES: "target-language images",
    BASE_SAMPLES: "base-language images",
    TEXT_ONLY: "text-only data",
    _BACKBONE: "backbone",
    _STAGES: "training stages",
}

_AMOUNTS = (SHARE, SAMPLES)

DESCRIPTIVE_AXES = frozenset(_TITLES)
"""Axes whose values are understood without a title."""

Setting = tuple[tuple[str, AxisValue], ...]
"""Axes of a cell except amount and seed, in the order of the grid's description."""


def setting_of(cell: CellRecord) -> Setting:
    """Return the axes of a cell except amount and seed."""
    return without_amount(tuple(pair for pair in cell.axes.items() if pair[0] != SEED))


def without_amount(axes: Setting) -> Setting:
    """Return axes without the amount of target-language data."""
    return tuple(pair for pair in axes if pair[0] not in _AMOUNTS)


def configured_axes(axes: Mapping[str, AxisValue]) -> Setting:
    """Return all axes of a cell except the seed, as they were configured.

    The last ones are the amount of target-language data: its share, or its number of images with
    that in the base language, if it is configured.
    """
    apart = (SEED, *_AMOUNTS, BASE_SAMPLES)
    others = tuple(pair for pair in axes.items() if pair[0] not in apart)
    if axes.get(SAMPLES) is not None:
        numbers = ((name, axes.get(name)) for name in (SAMPLES, BASE_SAMPLES))
        return (*others, *(pair for pair in numbers if pair[1] is not None))
    return (*others, (SHARE, float(axes.get(SHARE) or 0.0)))


def share_of(cell: CellRecord) -> float:
    """Return the share of the target language in a cell."""
    return cell.target_share


def describe_equal_cells(cells: Sequence[str]) -> str:
    """Describe cells that have the same stage runs."""
    return (
        f"{', '.join(cells)} have the same stage runs: what they differ in changes no result, so "
        "they are one trained model and not several."
    )


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


def is_number(value: AxisValue) -> bool:
    """Return whether a value of an axis has a place on a numeric scale."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def axis_titles(names: Sequence[str]) -> dict[str, str]:
    """Map the names of axes to their titles in tables and figures."""
    paths = [name for name in names if name not in _TITLES]
    return {**_TITLES, **short_names(paths, min_parts=2)}


def format_percent(share: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * share:.3g}{NBSP}%"


def format_value(axis: str, value: AxisValue) -> str:
    """Format the value of an axis without the name of the axis."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if axis == SHARE and isinstance(value, float | int):
        return format_percent(value)
    if axis in (SAMPLES, BASE_SAMPLES) and isinstance(value, int):
        return f"{value:,}{NBSP}images"
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
    return text if axis in (_STAGES, SAMPLES) else f"{title} = {text}"
