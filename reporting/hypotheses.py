"""Decisions about the pre-registered hypotheses that apply to the cells of a grid.

Comparisons are paired by question and clustered by image. The p-values of all hypotheses of a
report are corrected together (Holm).
"""

import dataclasses
from collections.abc import Iterator, Mapping

from configuration.axes import AxisValue
from evaluation.statistics.decisions import (
    Decision,
    equivalence,
    non_inferiority,
    superiority,
)
from evaluation.statistics.multiple_testing import apply_holm
from reporting.hypotheses_schema import (
    BEST,
    FIRST_NAMED,
    OTHERS,
    Comparison,
    Hypotheses,
    Hypothesis,
    QuestionLanguage,
)
from reporting.paired_scores import PairedScores, mean_scores, pair, scores_of_cells
from reporting.preregistration import load_registered
from reporting.records import GridRecord
from reporting.series import MAIN_PANEL, View, best_point, lines
from reporting.settings import (
    SHARE,
    Setting,
    format_value,
    setting_of,
    share_of,
    with_axis,
)

_SEED = 0
_NOT_RUN = "the cells have not run yet"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A hypothesis about specific cells and its decision (None if the cells have not run)."""

    text: str
    detail: str
    decision: Decision | None
    language: str


def decide_claims(grid: GridRecord, view: View) -> list[Claim]:
    """Decide all hypotheses that apply to a grid, with one correction for their number."""
    registered = load_registered(grid.folder)
    study = _Study(grid, view, registered)
    claims = [
        claim for hypothesis in registered.hypotheses.values() for claim in study.claims(hypothesis)
    ]
    decided = [claim.decision for claim in claims if claim.decision is not None]
    corrected = iter(apply_holm(decided) if decided else [])
    return [
        c if c.decision is None else dataclasses.replace(c, decision=next(corrected))
        for c in claims
    ]


class _Study:
    """Planned cells of a grid and the scores of those that have run.

    A cell is identified here by its setting and its share: all axes except the seed.
    """

    def __init__(self, grid: GridRecord, view: View, registered: Hypotheses) -> None:
        self._view, self._registered, self._grid = view, registered, grid
        self._planned = list(
            dict.fromkeys((*setting_of(c), (SHARE, share_of(c))) for c in grid.cells)
        )
        self._scores: dict[str, dict[Setting, PairedScores]] = {}

    def claims(self, hypothesis: Hypothesis) -> Iterator[Claim]:
        """Yield a claim per pair of values and per combination of the axes that are not pooled."""
        if hypothesis.second == BEST and not self._view.is_curve:
            return
        axis = hypothesis.axis
        values = list(dict.fromkeys(dict(c)[axis] for c in self._planned if axis in dict(c)))
        if not values:
            return
        first = values[0] if hypothesis.first == FIRST_NAMED else hypothesis.first
        is_named = hypothesis.second != OTHERS
        seconds = [hypothesis.second] if is_named else [v for v in values if v != first]
        for second in seconds:
            for pairs in self._group_pairs(hypothesis, first, second):
                yield self._decide(hypothesis, first, second, pairs)

    def _group_pairs(
        self, hypothesis: Hypothesis, first: AxisValue, second: AxisValue
    ) -> list[list[tuple[Setting, Setting]]]:
        """Pair the planned cells that differ in the compared axis only, by what is not pooled."""
        groups: dict[Setting, list[tuple[Setting, Setting]]] = {}
        for cell in self._planned:
            if dict(cell).get(hypothesis.axis) != first:
                continue
            other = self._counterpart(hypothesis, cell, second)
            if other is not None:
                apart = (hypothesis.axis, *hypothesis.pool)
                key = tuple((name, value) for name, value in cell if name not in apart)
                groups.setdefault(key, []).append((cell, other))
        return list(groups.values())

    def _counterpart(
        self, hypothesis: Hypothesis, cell: Setting, second: AxisValue
    ) -> Setting | None:
        if hypothesis.second == BEST:
            best = self._best_share(cell, self._language(hypothesis))
            return cell if best is None else with_axis(cell, SHARE, value=best)
        other = with_axis(cell, hypothesis.axis, value=second)
        return other if other in self._planned else None

    def _best_share(self, cell: Setting, language: str) -> float | None:
        setting = tuple(axis for axis in cell if axis[0] != SHARE)
        drawn = lines(self._grid, self._view, MAIN_PANEL)
        best = best_point([line for line in drawn if line.setting == setting], language)
        return None if best is None else best[1].share

    def _decide(
        self,
        hypothesis: Hypothesis,
        first: AxisValue,
        second: AxisValue,
        pairs: list[tuple[Setting, Setting]],
    ) -> Claim:
        language = self._language(hypothesis)
        scores = self._scores_in(language)
        ran = [(a, b) for a, b in pairs if a in scores and b in scores]
        compared = dict(pairs[0][1])[SHARE] if second == BEST else second
        values = {
            "first": format_value(hypothesis.axis, first),
            "second": format_value(hypothesis.axis, compared),
        }
        claim = Claim(
            text=hypothesis.text.format(**values) + self._suffix(hypothesis, pairs[0][0]),
            detail=_NOT_RUN,
            decision=None,
            language=language,
        )
        if not ran:
            return claim
        a, b = (mean_scores([scores[cells[side]] for cells in ran]) for side in (0, 1))
        decision = _compare(a, b, hypothesis.test, self._registered.margin_of(hypothesis))
        title = self._view.titles.get(hypothesis.axis, hypothesis.axis)
        detail = _describe_comparison(hypothesis, title, values, len(ran), len(pairs))
        return dataclasses.replace(claim, detail=detail, decision=decision)

    def _language(self, hypothesis: Hypothesis) -> str:
        is_target = hypothesis.language is QuestionLanguage.TARGET
        return self._view.target if is_target else self._view.base

    def _scores_in(self, language: str) -> Mapping[Setting, PairedScores]:
        if language not in self._scores:
            found = scores_of_cells(self._grid, language, self._registered.benchmark)
            self._scores[language] = {(*s, (SHARE, share)): p for (s, share), p in found.items()}
        return self._scores[language]

    def _suffix(self, hypothesis: Hypothesis, cell: Setting) -> str:
        """Describe the axes that distinguish one group of a hypothesis from its other groups."""
        label = self._view.label(cell, without=(hypothesis.axis, *hypothesis.pool, SHARE))
        return f", {label}" if label else ""


def _compare(
    first: PairedScores, second: PairedScores, test: Comparison, margin: float
) -> Decision:
    if test is Comparison.SUPERIORITY:
        return superiority(*pair(first, second), seed=_SEED)
    decide = equivalence if test is Comparison.EQUIVALENCE else non_inferiority
    return decide(*pair(first, second), delta=margin, seed=_SEED)


def _describe_comparison(
    hypothesis: Hypothesis, title: str, values: Mapping[str, str], num_ran: int, num_pairs: int
) -> str:
    if hypothesis.second == BEST:
        if values["first"] == values["second"]:
            return f"{values['first']} is itself the best share observed"
        return f"{values['first']} minus the best share observed, {values['second']}"
    detail = f"{title}: {values['first']} minus {values['second']}"
    if num_pairs > 1:
        detail += f", mean over {num_ran} pairs of cells"
    if num_ran < num_pairs:
        detail += f" ({num_pairs - num_ran} pairs have not run yet)"
    return detail
