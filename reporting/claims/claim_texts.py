"""Wording of claims: what is compared, in which cells, and what a verdict is about."""

from collections.abc import Sequence
from typing import Protocol

from configuration.axes import AxisValue
from evaluation.statistics.intervals import Interval
from reporting.claims.claim_cells import ClaimCells
from reporting.claims.hypotheses_schema import (
    BEFORE,
    BEST,
    BLIND,
    MAJORITY,
    OTHERS,
    Comparison,
    Hypothesis,
)
from reporting.claims.measures import Measure
from reporting.claims.units import Unit
from reporting.series import View
from reporting.settings import (
    BASE_SAMPLES,
    SAMPLES,
    SHARE,
    Setting,
    format_axis,
    format_percent,
    format_value,
)

_MAX_PARTS = 8
"""Pooled pairs that a sentence lists."""
_SECOND_NAMES = {
    OTHERS: "other",
    BEST: "the best of the other shares",
    BLIND: "the same model with a blank image",
    MAJORITY: "the most frequent answer",
    BEFORE: "the language model before training",
}


class _LabelledEffect(Protocol):
    """A labelled effect (`reporting.claims.hypotheses.ClaimPart`)."""

    @property
    def label(self) -> str: ...

    @property
    def effect(self) -> Interval: ...


def fill_text(hypothesis: Hypothesis, first: AxisValue, second: AxisValue) -> str:
    """Insert the values into the text of a hypothesis."""
    return hypothesis.text.format(
        first=format_value(hypothesis.axis, first), second=_second_name(hypothesis, second)
    )


def _second_name(hypothesis: Hypothesis, second: AxisValue) -> str:
    if second == BEST and hypothesis.axis != SHARE:
        return "the best of the other values"
    return _SECOND_NAMES.get(str(second), format_value(hypothesis.axis, second))


def describe_comparison(
    hypothesis: Hypothesis, cells: ClaimCells, measure: Measure, view: View, *, margin: float
) -> str:
    """Describe what is compared, on which values, and by which margin.

    Args:
        hypothesis: The hypothesis.
        cells: The compared cells.
        measure: The values that are compared.
        view: The grid.
        margin: Absolute margin, in the unit of the measure.
    """
    title = view.titles.get(hypothesis.axis, hypothesis.axis)
    first = format_value(hypothesis.axis, cells.first)
    named = _second_name(hypothesis, cells.second)
    detail = f"{title}: {first} minus {named}"
    for axis, value in hypothesis.minus.items():
        title = view.titles.get(axis, axis)
        detail += f", less the same difference at {title} = {format_value(axis, value)}"
    if len(cells.pairs) > 1 and cells.second != BEST:
        detail += f", mean over {len(cells.pairs)} pairs of cells"
    return f"{measure.describe()}; {detail}{_describe_margin(hypothesis, margin, measure.unit)}"


def describe_group(hypothesis: Hypothesis, cells: ClaimCells, measure: Measure, view: View) -> str:
    """Describe what distinguishes one claim of a hypothesis from its others; may be empty."""
    first = cells.pairs[0][0]
    amount = SHARE if SHARE in dict(first) else SAMPLES
    apart = (hypothesis.axis, *hypothesis.pool, *hypothesis.along)
    label = view.label(first, without=(*apart, amount))
    parts = [label] if label else []
    if amount not in apart and len(view.shares) > 1:
        parts.append(describe_cell(first, view, (amount,)))
    if len(hypothesis.kinds) > 1:
        parts.append(measure.kind.value)
    return "".join(f", {part}" for part in parts)


def _describe_margin(hypothesis: Hypothesis, margin: float, unit: Unit) -> str:
    if hypothesis.test is Comparison.SUPERIORITY:
        return ""
    if hypothesis.relative_margin is not None:
        share = format_percent(hypothesis.relative_margin)
        return f"; margin: {share} of what the image contributes"
    return f"; margin: {unit.format_margin(margin)}"


def describe_cell(cell: Setting, view: View, axes: Sequence[str] = ()) -> str:
    """Describe a cell by the axes that vary in the grid, or by some of them."""
    values = dict(cell)
    amounts = (SHARE, SAMPLES, BASE_SAMPLES)
    varying = [name for name in values if name in view.varying or name in amounts]
    shown = [name for name in axes if name in values] or varying
    parts = [
        format_percent(float(str(values[name])))
        if name == SHARE
        else format_axis(name, values[name], view.titles.get(name, name))
        for name in shown
    ]
    return ", ".join(parts)


def describe_parts(parts: Sequence[_LabelledEffect], unit: Unit) -> str:
    """List the effects of the pooled pairs."""
    listed = [
        f"{unit.format_difference(part.effect.value)} ({part.label})" for part in parts[:_MAX_PARTS]
    ]
    more = len(parts) - len(listed)
    return "; ".join(listed) + (f" and {more} more" if more > 0 else "")
