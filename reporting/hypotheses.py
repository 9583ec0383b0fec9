"""Which registered hypotheses a grid bears on, and what its cells say about them.

Comparisons are paired by question and clustered by image; p-values are corrected over all
hypotheses of a report (Holm).
"""

import dataclasses
from collections.abc import Iterator, Mapping

from configuration.axes import AxisValue
from evaluation.statistics.intervals import Decision, apply_holm, equivalence, non_inferiority
from reporting.paired_scores import Paired, mean_of, pair, scores_of_cells
from reporting.preregistration import (
    BEST,
    FIRST_NAMED,
    OTHERS,
    Asked,
    Comparison,
    Hypotheses,
    Hypothesis,
    registered,
)
from reporting.records import GridRecord
from reporting.series import MAIN, SHARE, View, best_point, lines, percent, setting_of
from reporting.series import share_of as share_of_cell

_SEED = 0

Axes = tuple[tuple[str, AxisValue], ...]
"""A cell's axes but for its seed, in one order."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A hypothesis in words and the decision about it (None: its cells have not run)."""

    text: str
    detail: str
    decision: Decision | None
    language: str


def decide_claims(grid: GridRecord, view: View) -> list[Claim]:
    """All hypotheses this grid bears on, decided together."""
    plan = registered(grid.folder)
    study = _Study(grid, view, plan)
    claims = [
        claim for hypothesis in plan.hypotheses.values() for claim in study.claims(hypothesis)
    ]
    decided = [claim.decision for claim in claims if claim.decision is not None]
    corrected = iter(apply_holm(decided) if decided else [])
    return [
        c if c.decision is None else dataclasses.replace(c, decision=next(corrected))
        for c in claims
    ]


class _Study:
    """The planned cells of a grid and the scores of those that ran."""

    def __init__(self, grid: GridRecord, view: View, plan: Hypotheses) -> None:
        self._view, self._plan, self._grid = view, plan, grid
        self._planned = list(
            dict.fromkeys((*setting_of(c), (SHARE, share_of_cell(c))) for c in grid.cells)
        )
        self._scores: dict[str, dict[Axes, Paired]] = {}

    def claims(self, hypothesis: Hypothesis) -> Iterator[Claim]:
        """One per compared pair of values and per combination of the axes that are not pooled."""
        if hypothesis.second == BEST and not self._view.is_curve:
            return
        axis = hypothesis.axis
        values = list(dict.fromkeys(dict(a)[axis] for a in self._planned if axis in dict(a)))
        first = values[0] if hypothesis.first == FIRST_NAMED else hypothesis.first
        named = hypothesis.second != OTHERS
        seconds = [hypothesis.second] if named else [v for v in values if v != first]
        for second in seconds:
            for pairs in self._groups(hypothesis, first, second):
                yield self._decide(hypothesis, first, second, pairs)

    def _groups(
        self, hypothesis: Hypothesis, first: AxisValue, second: AxisValue
    ) -> list[list[tuple[Axes, Axes]]]:
        """Pairs of planned cells that differ in the compared axis alone, by what is not pooled."""
        groups: dict[Axes, list[tuple[Axes, Axes]]] = {}
        for axes in self._planned:
            if dict(axes).get(hypothesis.axis) != first:
                continue
            other = self._other(hypothesis, axes, second)
            if other is not None:
                apart = (hypothesis.axis, *hypothesis.pool)
                key = tuple((name, value) for name, value in axes if name not in apart)
                groups.setdefault(key, []).append((axes, other))
        return list(groups.values())

    def _other(self, hypothesis: Hypothesis, axes: Axes, second: AxisValue) -> Axes | None:
        if hypothesis.second == BEST:
            best = self._best_share(axes, self._language(hypothesis))
            return axes if best is None else _with(axes, SHARE, best)
        other = _with(axes, hypothesis.axis, second)
        return other if other in self._planned else None

    def _best_share(self, axes: Axes, language: str) -> float | None:
        setting = tuple(axis for axis in axes if axis[0] != SHARE)
        drawn = [line for line in lines(self._grid, self._view, MAIN) if line.setting == setting]
        best = best_point(drawn, language)
        return None if best is None else best[1].share

    def _decide(
        self,
        hypothesis: Hypothesis,
        first: AxisValue,
        second: AxisValue,
        pairs: list[tuple[Axes, Axes]],
    ) -> Claim:
        language = self._language(hypothesis)
        scores = self._of(language)
        ran = [(a, b) for a, b in pairs if a in scores and b in scores]
        shown = dict(pairs[0][1])[SHARE] if second == BEST else second
        words = {"first": _word(first), "second": _word(shown)}
        claim = Claim(
            text=hypothesis.text.format(**words) + self._suffix(hypothesis, pairs[0][0]),
            detail="not run yet",
            decision=None,
            language=language,
        )
        if not ran:
            return claim
        a, b = (mean_of([scores[cells[side]] for cells in ran]) for side in (0, 1))
        decision = _compare(a, b, hypothesis.test, self._plan.margin_of(hypothesis))
        detail = _detail(hypothesis, words, len(ran), len(pairs))
        return dataclasses.replace(claim, detail=detail, decision=decision)

    def _language(self, hypothesis: Hypothesis) -> str:
        return self._view.target if hypothesis.language is Asked.TARGET else self._view.base

    def _of(self, language: str) -> Mapping[Axes, Paired]:
        if language not in self._scores:
            found = scores_of_cells(self._grid, language, self._plan.benchmark)
            self._scores[language] = {(*s, (SHARE, share)): p for (s, share), p in found.items()}
        return self._scores[language]

    def _suffix(self, hypothesis: Hypothesis, axes: Axes) -> str:
        """What tells this group from the hypothesis's others."""
        apart = (hypothesis.axis, *hypothesis.pool, SHARE)
        kept = tuple((name, value) for name, value in axes if name not in apart)
        reduced = tuple(tuple(x for x in s if x[0] not in apart) for s in self._view.settings)
        label = dataclasses.replace(self._view, settings=reduced).label(kept)
        return "" if label == "all cells" else f", {label}"


def _compare(first: Paired, second: Paired, test: Comparison, margin: float) -> Decision:
    if test is Comparison.SUPERIORITY:
        return _superiority(first, second, margin)
    decide = equivalence if test is Comparison.EQUIVALENCE else non_inferiority
    return decide(*pair(first, second), delta=margin, seed=_SEED)


def _superiority(first: Paired, second: Paired, margin: float) -> Decision:
    """Is the first better at all? Non-inferiority to the second raised by the margin."""
    a, b, images = pair(first, second)
    raised = non_inferiority(a, b + margin, images, delta=margin, seed=_SEED)
    seen = dataclasses.replace(
        raised.difference,
        value=raised.difference.value + margin,
        low=raised.difference.low + margin,
        high=raised.difference.high + margin,
    )
    return dataclasses.replace(raised, difference=seen, delta=0.0)


def _detail(hypothesis: Hypothesis, words: Mapping[str, str], num_ran: int, num_pairs: int) -> str:
    if hypothesis.second == BEST:
        if words["first"] == words["second"]:
            return f"{words['first']} is itself the best share seen"
        return f"{words['first']} against the best share seen, {words['second']}"
    detail = f"{hypothesis.axis}: {words['first']} minus {words['second']}"
    if num_pairs > 1:
        detail += f", mean over {num_ran} pairs of cells"
    if num_ran < num_pairs:
        detail += f" ({num_pairs - num_ran} not run yet)"
    return detail


def _word(value: AxisValue) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return percent(value) if isinstance(value, float | int) else str(value).replace("_", " ")


def _with(axes: Axes, name: str, value: AxisValue) -> Axes:
    return tuple((key, value if key == name else old) for key, old in axes)
