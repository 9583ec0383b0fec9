"""Opening of a report: key figures, sentences and verdicts, from what the page shows below."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from configuration.axes import AxisValue
from evaluation.statistics.decisions import Verdict
from reporting.claims.claim import NOT_RUN, Claim
from reporting.claims.preregistration import RegistrationCheck
from reporting.records import GridRecord
from reporting.sections.tables import format_duration
from reporting.series import (
    FIDELITY_PANEL,
    REFERENCE_SHARE,
    Line,
    Panel,
    Point,
    View,
    best_point,
    lines,
    main_panel,
)
from reporting.settings import (
    NBSP,
    TEXT_ONLY,
    Setting,
    format_axis,
    format_percent,
    format_value,
    with_axis,
)

_FAITHFUL = 90.0
"""Percentage of replies in the language of the question below which a score is qualified."""
_ALIGN_SHARE = "align.target_share"
"""Field of the share of stage 1, where it is not that of the cell."""
_MIN_POINTS = 2
"""Points of a line between which an accuracy can change."""
_MAX_LISTED = 8
"""Cells whose accuracies the summary lists one by one."""
_MODELS_ONLY = "for these trained models, not shown for other trainings"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFigure:
    """One number in large print, with its label and an explanation."""

    value: str
    label: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DecidedClaims:
    """Decided claims of one hypothesis with the same verdict."""

    verdict: str
    text: str
    """What the claims have in common."""
    cases: tuple[str, ...]
    """What distinguishes them; empty for a single claim."""
    scope: str
    """Empty if the verdict is about the recipe, otherwise what it is about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Opening of a page, and what its figures show besides."""

    sentences: tuple[str, ...]
    """At most three: the scores, the baselines, and how many claims are decided."""
    verdicts: tuple[DecidedClaims, ...] = ()
    observations: tuple[str, ...] = ()
    """Sentences about the figures; nothing in them is a decision."""


def summary(
    grid: GridRecord, view: View, claims: Sequence[Claim], registration: RegistrationCheck
) -> Summary:
    """Return the opening of the page."""
    found = lines(grid, view, main_panel(grid))
    best = best_point(found, view.target)
    if best is None:
        return Summary(sentences=(f"None of the {len(grid.cells)} cells has a result yet.",))
    observations = list[str]()
    if view.is_curve:
        sentence, observations = _curve_sentences(grid, found, view, best)
    else:
        sentence = _bar_sentence(found, view, best)
    judged = [claim for claim in claims if claim.verdict is not None or claim.reason != NOT_RUN]
    return Summary(
        sentences=(
            sentence,
            *_baseline_sentences(view, *best),
            *_count_sentences(judged, is_registered=registration.is_confirmatory),
        ),
        verdicts=tuple(_decided_claims(judged)),
        observations=(
            *observations,
            *_effect_sentences(found, view),
            *_base_language_sentences(grid, found, view, best[0]),
        ),
    )


def key_figures(grid: GridRecord, view: View) -> list[KeyFigure]:
    """Return the key figures: best accuracy, reference share, blind baseline and compute time."""
    found = lines(grid, view, main_panel(grid))
    best = best_point(found, view.target)
    stages = grid.stages()
    done = sum(cell.evaluation is not None for cell in grid.cells)
    cost = KeyFigure(
        value=format_duration(sum(stage.wall_s for stage in stages)),
        label="total compute time",
        detail=f"{done} of {len(grid.cells)} cells, {len(stages)} stage runs",
    )
    if best is None:
        return [cost]
    setting, point = best
    where = f"{_describe_point(view, setting, point)}; the highest of {_num_points(found, view)}"
    label = f"highest accuracy in {view.target}"
    figures = [KeyFigure(value=_format_score(point.value), label=label, detail=where)]
    same = (x for x in found if x.setting == setting and x.language == view.target)
    reference = next((line.at(REFERENCE_SHARE) for line in same), None)
    if view.is_curve and reference is not None and reference is not point:
        label = f"accuracy in {view.target} at a share of {format_percent(REFERENCE_SHARE)}"
        detail = f"{point.value - reference.value:.1f} points below the highest"
        value = _format_score(reference.value)
        figures.append(KeyFigure(value=value, label=label, detail=detail))
    if point.blind is not None:
        detail = "same model with a blank image"
        if point.majority is not None:
            detail += f"; majority-answer baseline {_format_score(point.majority)}"
        value = _format_score(point.blind)
        figures.append(KeyFigure(value=value, label="accuracy without the image", detail=detail))
    return [*figures, cost]


def _curve_sentences(
    grid: GridRecord, found: Sequence[Line], view: View, best: tuple[Setting, Point]
) -> tuple[str, list[str]]:
    """Return the sentence about the scores, and observations about them."""
    setting, top = best
    line = next(x for x in found if x.setting == setting and x.language == view.target)
    first, reference = line.points[0], line.at(REFERENCE_SHARE)
    label = view.label(setting)
    where = f" ({label})" if label else ""
    sentence = (
        f"On questions in the target language ({view.target}), the highest of "
        f"{_num_points(found, view)} observed accuracies on open questions is "
        f"{_format_score(top.value)}{where}, at a target-language share of "
        f"{format_percent(top.share)}"
    )
    observations = ["As the maximum of several, the highest accuracy is likely to be too high."]
    if reference is not None and reference is not top:
        compared = ""
        if first.share == 0:
            compared = f", compared with {_format_score(first.value)} at a share of zero"
            aligned = grid.common.get(_ALIGN_SHARE)
            if isinstance(aligned, int | float) and aligned > 0:
                compared += f" in stage 2 (stage 1 always has {format_percent(float(aligned))})"
            observations += _reply_language(grid, view, line, first, "At a share of zero")
        sentence += (
            f"; a share of {format_percent(REFERENCE_SHARE)} reaches "
            f"{_format_score(reference.value)}{_format_interval(reference)}{compared}"
        )
    return f"{sentence}.", observations


def _num_points(found: Sequence[Line], view: View) -> int:
    """Return the number of accuracies in the target language, among which the best is chosen."""
    return sum(len(line.points) for line in found if line.language == view.target)


def _bar_sentence(found: Sequence[Line], view: View, best: tuple[Setting, Point]) -> str:
    points = [(x.setting, p) for x in found if x.language == view.target for p in x.points]
    intro = f"accuracy on open questions in the target language ({view.target})"
    if len(points) > _MAX_LISTED:
        worst = min(points, key=lambda pair: pair[1].value)
        low, high = (_format_point(view, *pair) for pair in (worst, best))
        return f"The {intro} ranges from {low} to {high}."
    listed = "; ".join(_format_point(view, *pair) for pair in points)
    return f"The {intro} is {listed}."


def _baseline_sentences(view: View, setting: Setting, point: Point) -> list[str]:
    """Report the baselines of one cell in the target language."""
    if point.majority is None or point.blind is None:
        return []
    return [
        f"In {view.target}, the majority-answer baseline reaches {_format_score(point.majority)}, "
        f"and the model with the highest accuracy ({_describe_point(view, setting, point)}) "
        f"reaches {_format_score(point.blind)} without the image."
    ]


def _effect_sentences(found: Sequence[Line], view: View) -> list[str]:
    """Report the mean effect of each axis whose values are compared in several pairs of cells."""
    sentences = []
    for axis, values in view.varying.items():
        for value in values[1:]:
            first, second = (False, True) if axis == TEXT_ONLY else (values[0], value)
            pairs = list(_paired_points(found, view, axis, first, second))
            seeing = [b.value - a.value for a, b in pairs if _shows_something(a, b)]
            if len(seeing) > 1:
                mean, low, high = map(_format_change, (fmean(seeing), min(seeing), max(seeing)))
                left_out = len(pairs) - len(seeing)
                others = "other pair is" if left_out == 1 else "other pairs are"
                note = f"; {left_out} {others} left out" if left_out else ""
                sentences.append(
                    f"{_name_effect(view, axis, first, second)} changes the accuracy in the target "
                    f"language by {mean} points on average (smallest {low}, largest {high} of "
                    f"{len(seeing)} pairs of cells that exceed their baselines{note})."
                )
    return sentences


def _shows_something(first: Point, second: Point) -> bool:
    """Return whether neither point is known to stay at its blind and majority baselines."""
    return first.exceeds_baselines is not False and second.exceeds_baselines is not False


def _format_change(points: float) -> str:
    """Format a difference with a typographic minus sign, as in the tables."""
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def _paired_points(
    found: Sequence[Line], view: View, axis: str, first: AxisValue, second: AxisValue
) -> Iterator[tuple[Point, Point]]:
    """Yield the points that differ in one axis only, with its first and its second value."""
    target = {line.setting: line for line in found if line.language == view.target}
    for line in target.values():
        if dict(line.setting).get(axis) != first:
            continue
        other = target.get(with_axis(line.setting, axis, value=second))
        for point in line.points:
            counterpart = other.at(point.share) if other else None
            if counterpart is not None:
                yield point, counterpart


def _name_effect(view: View, axis: str, first: AxisValue, second: AxisValue) -> str:
    if axis == TEXT_ONLY:
        return "Adding text-only data"
    title = view.titles[axis]
    new = format_axis(axis, second, title)
    return f"Using {new} instead of {format_value(axis, first)}"


def _base_language_sentences(
    grid: GridRecord, found: Sequence[Line], view: View, setting: Setting
) -> list[str]:
    """Report the accuracy of one setting in the base language, and the language of its replies."""
    line = next((x for x in found if x.language == view.base and x.setting == setting), None)
    if not view.is_curve or line is None or len(line.points) < _MIN_POINTS:
        return []
    first, last = line.points[0], line.points[-1]
    label = view.label(setting)
    where = f" of the same setting ({label})" if label else ""
    sentences = [
        f"In the base language ({view.base}), the accuracy{where} changes from "
        f"{_format_score(first.value)} at a share of {format_percent(first.share)} to "
        f"{_format_score(last.value)} at {format_percent(last.share)}."
    ]
    sentences += _reply_language(grid, view, line, last, "There")
    return sentences


def _reply_language(
    grid: GridRecord, view: View, line: Line, point: Point, where: str
) -> list[str]:
    """Say that a score is low because replies are in another language, if that is so."""
    fidelity = _value_at(grid, view, FIDELITY_PANEL, line, point.share)
    if fidelity is None or fidelity >= _FAITHFUL:
        return []
    text = (
        f"{where}, only {_format_score(fidelity)} of the replies are in {line.language}: the model "
        "answers in another language, which is not the same as not knowing the answer."
    )
    panel = Panel(key="any", title="", metric="vqa/{language}/accuracy_any_language", note="")
    either = _value_at(grid, view, panel, line, point.share)
    if either is not None:
        text += (
            f" If the right answer counts in any language, the accuracy is {_format_score(either)}."
        )
    return [text]


def _value_at(grid: GridRecord, view: View, panel: Panel, line: Line, share: float) -> float | None:
    """Return another metric at a share of a line; None if it was not measured."""
    for other in lines(grid, view, panel):
        if (other.language, other.setting) == (line.language, line.setting):
            point = other.at(share)
            return None if point is None else point.value
    return None


def _count_sentences(judged: Sequence[Claim], *, is_registered: bool) -> list[str]:
    """Say how many claims are decided."""
    if not judged:
        return []
    kind = "pre-registered" if is_registered else "exploratory"
    numbers = Counter(claim.verdict or Verdict.UNDECIDED for claim in judged)
    if numbers[Verdict.UNDECIDED] == len(judged):
        return [f"None of the {len(judged)} {kind} claims is decided by these data."]
    return [
        f"Of the {len(judged)} {kind} claims, {numbers[Verdict.SUPPORTED]} are supported, "
        f"{numbers[Verdict.REFUTED]} refuted and {numbers[Verdict.UNDECIDED]} undecided."
    ]


def _decided_claims(judged: Sequence[Claim]) -> Iterator[DecidedClaims]:
    """Yield the decided claims, those of one hypothesis with the same verdict together."""
    groups: dict[tuple[Verdict, str, str], list[str]] = {}
    for claim in judged:
        if claim.verdict is not None and claim.verdict is not Verdict.UNDECIDED:
            scope = "" if claim.is_about_recipe else _MODELS_ONLY
            groups.setdefault((claim.verdict, claim.name, scope), []).append(claim.text)
    for (verdict, _, scope), texts in groups.items():
        parts = [text.split(", ") for text in texts]
        same = itertools.takewhile(lambda found: len({*found}) == 1, zip(*parts, strict=False))
        number = len([*same])
        cases = tuple(", ".join(part[number:]) for part in parts)
        if len(texts) == 1 or not number or not all(cases):
            for text in texts:
                yield DecidedClaims(verdict=verdict.value, text=text, cases=(), scope=scope)
        else:
            start = ", ".join(parts[0][:number])
            yield DecidedClaims(verdict=verdict.value, text=start, cases=cases, scope=scope)


def _format_point(view: View, setting: Setting, point: Point) -> str:
    where = _describe_point(view, setting, point)
    return f"{_format_score(point.value)}{_format_interval(point)} ({where})"


def _format_score(value: float) -> str:
    return f"{value:.1f}{NBSP}%"


def _describe_point(view: View, setting: Setting, point: Point) -> str:
    label = view.label(setting)
    share = f"{format_percent(point.share)} share"
    if not label:
        return share
    return f"{label}, {share}" if len(view.shares) > 1 else label


def _format_interval(point: Point) -> str:
    if point.low is None or point.high is None:
        return ""
    return f" [{point.low:.1f}, {point.high:.1f}]"
