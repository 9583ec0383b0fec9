"""The cells that a hypothesis compares in a grid, found by their axes."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from configuration.axes import AxisValue, is_value
from reporting.claims.hypotheses_schema import (
    BEFORE,
    BEST,
    BLIND,
    FIRST_NAMED,
    MAJORITY,
    OTHERS,
    Hypothesis,
)
from reporting.settings import SHARE, Setting, without_amount

_MIN_VALUES = 3
"""Number of shares, or of values of another axis, from which it makes sense to ask for the best."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClaimCells:
    """The pairs of cells of one claim."""

    first: AxisValue
    second: AxisValue
    """A value of the axis, or one of the special names of the second value."""
    pairs: tuple[tuple[Setting, Setting], ...]
    """First and second cell of every pooled pair. For `best`, the first cell with every other share
    of its setting, or every other value of another axis; for `blind`, `majority` and
    `before_training`, a cell with itself."""


def select_cells(
    hypothesis: Hypothesis,
    planned: Sequence[Setting],
    common: Mapping[str, AxisValue],
    fields: Mapping[Setting, Mapping[str, AxisValue]] | None = None,
) -> list[ClaimCells] | str:
    """Find the claims of a hypothesis, or say why it does not apply.

    Args:
        hypothesis: The hypothesis.
        planned: Axes of every cell of the grid except the seed.
        common: Configuration fields that all cells share.
        fields: Fields of cells that are no axes because named variants set them.
    """
    axis = hypothesis.axis
    fields = fields or {}
    sides, reason = _sides(hypothesis, planned, common, fields)
    if reason:
        return reason
    kept = [cell for cell in planned if any(cell in side for side in sides)]
    values = list(dict.fromkeys(dict(cell)[axis] for cell in kept if axis in dict(cell)))
    if not values:
        return _missing_axis(axis, fields)
    first, second = (_named(values, one) for one in (hypothesis.first, hypothesis.second))
    if first not in values:
        return f"no cell has {axis} = {first}"
    if hypothesis.second in (BLIND, MAJORITY, BEFORE):
        cells = [cell for cell in kept if dict(cell).get(axis) == first]
        return _group(hypothesis, first, hypothesis.second, [(cell, cell) for cell in cells])
    if hypothesis.second == BEST:
        return _against_best(hypothesis, kept, first)
    if len(values) == 1:
        return f"all cells have {axis} = {values[0]}"
    seconds = [v for v in values if v != first]
    if hypothesis.second != OTHERS:
        if second not in seconds:
            return f"no cell has {axis} = {second}"
        seconds = [second]
    firsts = [cell for cell in sides[0] if dict(cell).get(axis) == first]
    claims = []
    for value in seconds:
        found = product(firsts, sides[1])
        pairs = [pair for pair in found if _is_counterpart(hypothesis, *pair, value)]
        claims += _group(hypothesis, first, value, pairs)
    alone = f"{axis} and {', '.join(hypothesis.along)}" if hypothesis.along else f"{axis} alone"
    return claims or f"no two cells differ in {alone}"


def _sides(
    hypothesis: Hypothesis,
    planned: Sequence[Setting],
    common: Mapping[str, AxisValue],
    fields: Mapping[Setting, Mapping[str, AxisValue]],
) -> tuple[list[list[Setting]], str]:
    """Return the cells that may be the first and the second of a pair, or why there are none."""
    if hypothesis.left_out:
        return [], f"the experiment leaves it out, because {hypothesis.left_out}"
    kept, reason = _filter_cells(hypothesis.only_if, planned, common, fields)
    if not reason and hypothesis.minus:
        kept = [cell for cell in kept if subtracted_cell(hypothesis, cell) in planned]
        reason = "" if kept else f"no two cells differ in {', '.join(hypothesis.minus)} alone"
    sides = []
    for wanted in (hypothesis.first_if, hypothesis.second_if):
        side, missing = _filter_cells(wanted, kept, common, fields) if kept else ([], "")
        sides.append(side)
        reason = reason or missing
    return sides, reason


def _missing_axis(axis: str, fields: Mapping[Setting, Mapping[str, AxisValue]]) -> str:
    is_set = any(axis in known for known in fields.values())
    return f"no cell has the axis {axis}" + (", which named variants set" if is_set else "")


def _named(values: Sequence[AxisValue], written: Any) -> AxisValue:
    """Return the value of an axis that a hypothesis names, or what it names if there is none."""
    if written == FIRST_NAMED:
        return values[0]
    return next((value for value in values if is_value(value, written)), written)


def _is_counterpart(
    hypothesis: Hypothesis, cell: Setting, other: Setting, second: AxisValue
) -> bool:
    """Return whether a cell equals another one but for the compared axes."""
    values, others = dict(cell), dict(other)
    apart = {hypothesis.axis, *hypothesis.along}
    return (
        others.get(hypothesis.axis) == second
        and values.keys() == others.keys()
        and apart <= values.keys()
        and all(value == others[name] for name, value in cell if name not in apart)
    )


def subtracted_cell(hypothesis: Hypothesis, cell: Setting) -> Setting | None:
    """Return the cell whose value is subtracted from that of a cell (`minus`); None if it has none.

    It is the cell with another value on one axis; the cells that have this value have none.
    """
    ((axis, wanted),) = hypothesis.minus.items()
    if axis not in dict(cell) or is_value(dict(cell)[axis], wanted):
        return None
    return tuple((name, wanted if name == axis else value) for name, value in cell)


def _filter_cells(
    conditions: Mapping[str, Any],
    planned: Sequence[Setting],
    common: Mapping[str, AxisValue],
    fields: Mapping[Setting, Mapping[str, AxisValue]],
) -> tuple[list[Setting], str]:
    """Return the cells that fulfil conditions, and the reason if there are none."""
    kept = list(planned)
    for field, wanted in conditions.items():
        unknown = common.get(field, "not recorded")
        found = {cell: {**fields.get(cell, {}), **dict(cell)}.get(field, unknown) for cell in kept}
        kept = [cell for cell in kept if is_value(found[cell], wanted)]
        if not kept:
            values = ", ".join(sorted({str(value) for value in found.values()}))
            return [], f"requires {field} = {wanted}, but here it is {values}"
    return kept, ""


def _group(
    hypothesis: Hypothesis,
    first: AxisValue,
    second: AxisValue,
    pairs: Sequence[tuple[Setting, Setting]],
) -> list[ClaimCells]:
    """Return one claim per combination of the axes that are not pooled."""
    apart = (hypothesis.axis, *hypothesis.pool, *hypothesis.along)
    groups: dict[Setting, list[tuple[Setting, Setting]]] = {}
    for cell, other in pairs:
        key = tuple((name, value) for name, value in cell if name not in apart)
        groups.setdefault(key, []).append((cell, other))
    return [ClaimCells(first=first, second=second, pairs=tuple(group)) for group in groups.values()]


def _against_best(
    hypothesis: Hypothesis, kept: Sequence[Setting], first: AxisValue
) -> list[ClaimCells] | str:
    """Return one claim per setting: its cell with the first value against all its others."""
    axis = hypothesis.axis
    apart = {axis, *hypothesis.along}
    settings: dict[Setting, list[Setting]] = {}
    for cell in kept:
        if axis in dict(cell):
            others = tuple(pair for pair in cell if pair[0] not in apart)
            key = without_amount(cell) if axis == SHARE else others
            settings.setdefault(key, []).append(cell)
    claims = []
    for cells in settings.values():
        firsts = [cell for cell in cells if dict(cell)[axis] == first]
        if firsts and len(cells) >= _MIN_VALUES:
            pairs = [(firsts[0], cell) for cell in cells if cell != firsts[0]]
            claims.append(ClaimCells(first=first, second=BEST, pairs=tuple(pairs)))
    return claims or f"no setting has {_MIN_VALUES} {'shares' if axis == SHARE else axis} or more"
