"""The summary of a report in plain words, made from the same numbers as its figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from reporting.hypotheses import Claim
from reporting.records import GridRecord
from reporting.series import (
    ENOUGH_SHARE,
    MAIN,
    NBSP,
    Line,
    Point,
    Setting,
    View,
    best_point,
    lines,
    percent,
    with_axis,
)
from reporting.tables import duration


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One large number with what it means."""

    value: str
    label: str
    detail: str


def summary(grid: GridRecord, view: View, claims: Sequence[Claim]) -> list[str]:
    """The lead paragraph, sentence by sentence."""
    found = lines(grid, view, MAIN)
    best = best_point(found, view.target)
    if best is None:
        return [f"None of the {len(grid.cells)} cells has a result yet."]
    if view.is_curve:
        sentences = _curve_sentences(found, view, best)
    else:
        sentences = _bar_sentences(found, view)
    sentences += _text_only_sentence(found, view)
    sentences += _base_sentence(found, view)
    return sentences + _verdicts(claims)


def facts(grid: GridRecord, view: View) -> list[Fact]:
    """The row of large numbers."""
    found = lines(grid, view, MAIN)
    best = best_point(found, view.target)
    stages = grid.stages()
    done = sum(cell.evaluation is not None for cell in grid.cells)
    cost = Fact(
        value=duration(sum(stage.wall_s for stage in stages)),
        label="computed in all",
        detail=f"{done} of {len(grid.cells)} cells, {len(stages)} stage runs",
    )
    if best is None:
        return [cost]
    setting, point = best
    where = _where(view, setting, point) + _interval(point)
    row = [Fact(value=_percent(point.value), label=f"best {view.target} accuracy", detail=where)]
    mine = (x for x in found if x.setting == setting and x.language == view.target)
    enough = next((line.at(ENOUGH_SHARE) for line in mine), None)
    if view.is_curve and enough is not None and enough is not point:
        label = f"{view.target} at a share of {percent(ENOUGH_SHARE)}"
        detail = f"{point.value - enough.value:.1f} points below the best"
        row.append(Fact(value=_percent(enough.value), label=label, detail=detail))
    if point.blind is not None:
        detail = "same model, blank image"
        if point.majority is not None:
            detail += f"; best constant reply {_percent(point.majority)}"
        row.append(Fact(value=_percent(point.blind), label="without the image", detail=detail))
    return [*row, cost]


def _curve_sentences(found: Sequence[Line], view: View, best: tuple[Setting, Point]) -> list[str]:
    setting, top = best
    line = next(x for x in found if x.setting == setting and x.language == view.target)
    first, enough = line.points[0], line.at(ENOUGH_SHARE)
    label = view.label(setting)
    about = "" if label == "all cells" else f" ({label})"
    sentences = [
        f"Asked in the target language ({view.target}), the best cell{about} answers "
        f"{_percent(top.value)} of the open questions correctly{_interval(top)}, at a "
        f"target-language share of {percent(top.share)}."
    ]
    if enough is not None and enough is not top:
        sentences.append(
            f"A share of {percent(ENOUGH_SHARE)} reaches {_percent(enough.value)}"
            f"{_interval(enough)}"
            + (f"; without any it is {_percent(first.value)}." if first.share == 0 else ".")
        )
    return sentences + _baseline_sentence(top)


def _bar_sentences(found: Sequence[Line], view: View) -> list[str]:
    parts = [
        f"{_where(view, line.setting, point)} {_percent(point.value)}{_interval(point)}"
        for line in found
        if line.language == view.target
        for point in line.points
    ]
    text = f"Accuracy on open questions in the target language ({view.target}): {'; '.join(parts)}."
    return [text, *_baseline_sentence(max((p for x in found for p in x.points), key=_value))]


def _baseline_sentence(point: Point) -> list[str]:
    if point.majority is None or point.blind is None:
        return []
    return [
        f"For comparison, the best constant reply is right in {_percent(point.majority)} and "
        f"the same model without the image in {_percent(point.blind)}."
    ]


def _text_only_sentence(found: Sequence[Line], view: View) -> list[str]:
    changes = []
    for line in found:
        if line.language != view.target or dict(line.setting).get("text_only") is not False:
            continue
        other = with_axis(line.setting, "text_only", value=True)
        on = next((x for x in found if x.setting == other and x.language == line.language), None)
        for point in line.points:
            twin = on.at(point.share) if on else None
            if twin is not None:
                changes.append(twin.value - point.value)
    if not changes:
        return []
    mean, spread = fmean(changes), f"{min(changes):+.1f} to {max(changes):+.1f}"
    return [
        f"Text-only data in the target language changes its accuracy by {mean:+.1f} points on "
        f"average ({spread} over the cells)."
    ]


def _base_sentence(found: Sequence[Line], view: View) -> list[str]:
    base = [line for line in found if line.language == view.base and len(line.points) > 1]
    if not view.is_curve or not base:
        return []
    first = fmean(line.points[0].value for line in base)
    last = fmean(line.points[-1].value for line in base)
    low, high = base[0].points[0].share, base[0].points[-1].share
    return [
        f"In the other language ({view.base}) the accuracy goes from {_percent(first)} at a share "
        f"of {percent(low)} to {_percent(last)} at {percent(high)}."
    ]


def _verdicts(claims: Sequence[Claim]) -> list[str]:
    parts = [
        f"\N{LEFT DOUBLE QUOTATION MARK}{claim.text}\N{RIGHT DOUBLE QUOTATION MARK} is "
        f"{claim.decision.verdict.value}"
        for claim in claims
        if claim.decision is not None
    ]
    return [f"Of the claims written down beforehand, {', '.join(parts)}."] if parts else []


def _percent(value: float) -> str:
    return f"{value:.1f}{NBSP}%"


def _where(view: View, setting: Setting, point: Point) -> str:
    label = view.label(setting)
    share = f"{percent(point.share)} share"
    if label == "all cells":
        return share
    return f"{label}, {share}" if len(view.shares) > 1 else label


def _interval(point: Point) -> str:
    if point.low is None or point.high is None:
        return ""
    return f" [{point.low:.1f}, {point.high:.1f}]"


def _value(point: Point) -> float:
    return point.value
