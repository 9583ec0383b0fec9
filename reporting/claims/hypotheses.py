"""Decisions about the registered hypotheses that apply to the cells of a grid.

Comparisons are paired by question and clustered by image. The claims of a report are corrected
together for their number. A verdict is withdrawn if it does not describe what was pooled.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from configuration.axes import AxisValue
from evaluation.people.preferences import PreferenceRecord
from evaluation.statistics.decisions import ALPHA, explain_few_clusters
from reporting.claims.claim import (
    NOT_RUN,
    Claim,
    ClaimPart,
    ClaimResults,
    Inapplicable,
    Trainings,
)
from reporting.claims.claim_cells import ClaimCells, select_cells
from reporting.claims.claim_corrections import correct_claims, take_back
from reporting.claims.claim_decisions import (
    ComparisonOutcome,
    Margin,
    baselines,
    decide_enough,
    decide_pairs,
    shows_nothing,
    subtract_cells,
)
from reporting.claims.claim_texts import (
    describe_cell,
    describe_comparison,
    describe_group,
    fill_text,
)
from reporting.claims.hypotheses_schema import (
    BEFORE,
    BEST,
    BLIND,
    MAJORITY,
    PAIRWISE_KINDS,
    ClaimKind,
    Comparison,
    Hypothesis,
    QuestionLanguage,
)
from reporting.claims.measures import Measure, Measurements, measure_of
from reporting.claims.paired_scores import CellScores
from reporting.claims.preference_claims import GridPreferences, decide_preference
from reporting.claims.preregistration import load_registered
from reporting.records import GridRecord
from reporting.series import View
from reporting.settings import SHARE, Setting, configured_axes

_NO_VALUES = "not measured in this grid"
_NO_CELL = (
    "no compared cell exceeds its blind and majority baselines, so no number of images decides it"
)
_NO_PART = (
    "in every pair, neither cell exceeds its blind and majority baselines on one of the two kinds "
    "of questions, so a difference between the kinds is no evidence"
)
_FROZEN = "no stage trains the language model of the compared cells, so its texts can't change"
_NO_PAIR = (
    "no pooled pair of cells exceeds its blind and majority baselines, so no number of images "
    "decides it"
)


def decide_claims(grid: GridRecord, view: View) -> ClaimResults:
    """Decide all hypotheses that apply to a grid, with one correction for their number."""
    study = _Study(grid, view)
    pending, inapplicable = list[_Pending](), list[Inapplicable]()
    for name, hypothesis in load_registered(grid.folder).hypotheses.items():
        for kind in hypothesis.kinds:
            found = study.claims(name, hypothesis, kind)
            if isinstance(found, str):
                text = fill_text(hypothesis, hypothesis.first, hypothesis.second)
                if len(hypothesis.kinds) > 1:
                    text += f" ({kind})"
                inapplicable.append(Inapplicable(name=name, text=text, reason=found))
            else:
                pending += found
    num_decided = sum(one.pairs != () for one in pending)
    claims = [study.decide(one, alpha=ALPHA / max(1, num_decided)) for one in pending]
    return ClaimResults(
        claims=tuple(map(take_back, correct_claims(claims))), inapplicable=tuple(inapplicable)
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Pending:
    """A claim before its decision, with the cells that have run."""

    claim: Claim
    hypothesis: Hypothesis
    second: AxisValue
    margin: float
    """Absolute margin, in the unit of the claim."""
    pairs: tuple[tuple[Setting, Setting], ...]
    firsts: Mapping[Setting, CellScores] = dataclasses.field(default_factory=dict)
    seconds: Mapping[Setting, CellScores] = dataclasses.field(default_factory=dict)
    evidence: Mapping[Setting, CellScores] = dataclasses.field(default_factory=dict)
    """Values of the cells themselves, where the claim concerns differences to other cells."""
    kinds: tuple[Mapping[Setting, CellScores], ...] = ()
    """Values of the cells on each of two kinds of questions, for claims about their contrast."""
    record: PreferenceRecord | None = None
    """Preferences between the two cells, for claims about people or judges."""


class _Study:
    """Planned cells of a grid and the values of those that have run."""

    def __init__(self, grid: GridRecord, view: View) -> None:
        self._grid, self._view = grid, view
        self._registered = load_registered(grid.folder)
        self._values = Measurements(grid)
        self._preferences = GridPreferences(grid)
        self._planned = list(dict.fromkeys(configured_axes(c.axes) for c in grid.cells))
        self._fields = {configured_axes(cell.axes): cell.fields for cell in grid.cells}

    def claims(self, name: str, hypothesis: Hypothesis, kind: ClaimKind) -> list[_Pending] | str:
        """Return the claims of a hypothesis about one kind, or why it does not apply."""
        groups = select_cells(hypothesis, self._planned, self._grid.common, self._fields)
        if isinstance(groups, str):
            return groups
        is_target = hypothesis.language is QuestionLanguage.TARGET
        language = self._view.target if is_target else self._view.base
        measures = [measure_of(hypothesis, kind, language, self._grid.deciding_metric)]
        if kind in PAIRWISE_KINDS:
            judged = [
                self._prepare(name, hypothesis, measures[0], cells, record)
                for cells in groups
                if (record := self._preferences.find(kind, cells.pairs[0], language)) is not None
            ]
            return judged or _NO_VALUES
        if kind is ClaimKind.RETENTION:
            measures.append(dataclasses.replace(measures[0], is_bits=True))
        measured = [m for m in measures if self._values.cells(m)]
        has_results = any(cell.evaluation is not None for cell in self._grid.cells)
        if not measured and has_results:
            return _NO_VALUES
        return [
            self._prepare(name, hypothesis, measure, cells)
            for measure in measured or measures[:1]
            for cells in groups
        ]

    def _prepare(
        self,
        name: str,
        hypothesis: Hypothesis,
        measure: Measure,
        cells: ClaimCells,
        record: PreferenceRecord | None = None,
    ) -> _Pending:
        margin = self._registered.margin_of(hypothesis, is_bits=measure.is_bits)
        claim = Claim(
            name=name,
            text=fill_text(hypothesis, cells.first, cells.second)
            + describe_group(hypothesis, cells, measure, self._view),
            detail=describe_comparison(hypothesis, cells, measure, self._view, margin=margin),
            language=measure.language,
            test=hypothesis.test,
            unit=measure.unit,
            notes=self._notes(measure, cells),
            shows_nothing=_FROZEN if self._is_frozen(measure, cells) else "",
        )
        if record is not None:
            return _Pending(claim=claim, hypothesis=hypothesis, second=cells.second,
                            margin=margin, pairs=cells.pairs, record=record)  # fmt: skip
        own = self._values.cells(measure)
        firsts = subtract_cells(hypothesis, own) if hypothesis.minus else own
        seconds = firsts
        if cells.second == BEFORE:
            seconds = self._values.cells(measure, is_before=True)
        if cells.second in (BLIND, MAJORITY):
            seconds = baselines(firsts, str(cells.second))
        ran = tuple((a, b) for a, b in cells.pairs if a in firsts and b in seconds)
        missing = len(cells.pairs) - len(ran)
        if missing:
            # A decision on a part would be another claim, at another error level.
            some = f"{missing} of {len(cells.pairs)} pairs of cells have not run yet"
            claim = dataclasses.replace(claim, reason=some if ran else NOT_RUN)
            ran = ()
        return _Pending(
            claim=claim,
            hypothesis=hypothesis,
            second=cells.second,
            margin=margin,
            pairs=ran,
            firsts=firsts,
            seconds=seconds,
            evidence=own,
            kinds=tuple(map(self._values.cells, measure.kinds())),
        )

    def decide(self, pending: _Pending, *, alpha: float) -> Claim:
        """Leave out cells that do not exceed their baselines, and decide about the others.

        Args:
            pending: The claim and its cells.
            alpha: Level of a single claim, for which the needed images and seeds are computed.
        """
        claim, hypothesis, ran = pending.claim, pending.hypothesis, [*pending.pairs]
        firsts, seconds = pending.firsts, pending.seconds
        if not ran:
            return claim
        if pending.record is not None:
            outcome = decide_preference(
                pending.record,
                claim.language,
                test=hypothesis.test,
                margin=pending.margin,
                alpha=alpha,
            )
            return _fill(claim, outcome)
        named = {cell: firsts[cell] for pair in ran for cell in pair if cell in firsts}
        is_baseline = pending.second in (BLIND, MAJORITY)
        silent = [] if is_baseline else [c for c in named if shows_nothing(pending.evidence[c])]
        claim = dataclasses.replace(
            claim,
            excluded=tuple(describe_cell(cell, self._view) for cell in silent),
            shows_nothing=_NO_CELL if len(silent) == len(named) else claim.shows_nothing,
        )
        margin = Margin(absolute=pending.margin, relative=hypothesis.relative_margin)
        replicated = [values for values in firsts.values() if len(values.seeds) > 1]
        if pending.second == BEST:
            first = ran[0][0]
            outcome = _decide_best(hypothesis, first, named, replicated, margin=margin, alpha=alpha)
            empty = describe_cell(first, self._view) if first in silent else ""
            return _fill(_with_trainings(claim, pending, ran), outcome, empty=empty)
        ran = [pair for pair in ran if not _is_empty_contrast(pending.kinds, pair)]
        if not ran:
            return dataclasses.replace(claim, reason=_NO_PART)
        if missing := len(pending.pairs) - len(ran):
            note = (
                f"left out {missing} of {len(pending.pairs)} pairs, in which neither cell exceeds "
                "its baselines on one of the two kinds of questions"
            )
            claim = dataclasses.replace(claim, notes=(*claim.notes, note))
        kept = ran
        empty = ""
        if len(ran) > 1:
            kept = [pair for pair in ran if not set(pair) & set(silent)]
            if not kept:
                return dataclasses.replace(claim, reason=_NO_PAIR)
            if silent:
                pairs = f"{len(kept)} of {len(ran)} pairs"
                note = f"decided on the {pairs} whose cells exceed their baselines"
                claim = dataclasses.replace(claim, notes=(*claim.notes, note))
        elif silent:
            is_gain = hypothesis.test is Comparison.SUPERIORITY
            decisive = ran[0][0 if is_gain else 1]
            empty = describe_cell(decisive, self._view) if decisive in silent else ""
            claim = dataclasses.replace(claim, excluded=())
        outcome = decide_pairs(
            [firsts[a] for a, _ in kept],
            [seconds[b] for _, b in kept],
            replicated,
            test=hypothesis.test,
            margin=margin,
            alpha=alpha,
        )
        parts = tuple(_parts(outcome, [describe_cell(a, self._view, (*hypothesis.pool,))
                                       for a, _ in kept]))  # fmt: skip
        return _fill(_with_trainings(claim, pending, kept), outcome, parts=parts, empty=empty)

    def _is_frozen(self, measure: Measure, cells: ClaimCells) -> bool:
        """Return whether a measure of texts compares cells whose language model is not trained."""
        compared = {cell for pair in cells.pairs for cell in pair}
        is_retention = measure.kind is ClaimKind.RETENTION
        return is_retention and not self._values.trains_language_model(compared)

    def _notes(self, measure: Measure, cells: ClaimCells) -> tuple[str, ...]:
        """State whether texts that measure retention are training data of the compared cells."""
        compared = {cell for pair in cells.pairs for cell in pair}
        found = self._values.trained_on_texts(measure, compared)
        if not found.tasks:
            return ()
        return (
            f"rests on training text: the source of {', '.join(found.tasks)} was training data of "
            f"{found.num_cells} of the {len(compared)} compared cells, so the claim concerns "
            "learning rather than retention",
        )


def _is_empty_contrast(
    kinds: Sequence[Mapping[Setting, CellScores]], pair: tuple[Setting, Setting]
) -> bool:
    """Return whether both cells of a pair show nothing on one of two kinds of questions.

    Their difference on it is noise between two models that do not see, and the contrast would be
    decided by the other kind alone.
    """
    return any(all(cell in kind and shows_nothing(kind[cell]) for cell in pair) for kind in kinds)


def _decide_best(
    hypothesis: Hypothesis,
    first: Setting,
    named: Mapping[Setting, CellScores],
    replicated: Sequence[CellScores],
    *,
    margin: Margin,
    alpha: float,
) -> ComparisonOutcome:
    """Compare a cell with the best of the others, whichever that is.

    Shares have an order, in which a decrease is reported; the values of another axis have none.
    """
    is_share = hypothesis.axis == SHARE
    places = {
        cell: float(str(dict(cell)[SHARE])) if is_share else float(number)
        for number, cell in enumerate(named)
    }
    outcome = decide_enough(
        [(places[cell], values) for cell, values in named.items()],
        places[first],
        replicated,
        margin=margin,
        alpha=alpha,
    )
    return outcome if is_share else dataclasses.replace(outcome, notes=())


def _with_trainings(
    claim: Claim, pending: _Pending, kept: Sequence[tuple[Setting, Setting]]
) -> Claim:
    """Add how often the compared cells were trained, and whose training variance is used."""
    is_apart = pending.second not in (BLIND, MAJORITY, BEFORE)
    sides = [{cell for cell, _ in kept}, {cell for _, cell in kept} if is_apart else set()]
    trained = {cell: len(values.seeds) for cell, values in pending.firsts.items()}
    first, second = (tuple(sorted({trained[cell] for cell in side})) for side in sides)
    replicated = {cell for cell, number in trained.items() if number > 1}
    is_own = replicated == sides[0] | sides[1] and len({*first, *second}) == 1
    return dataclasses.replace(
        claim,
        trainings=Trainings(first=first, second=second),
        num_pooled_cells=0 if is_own else len(replicated),
    )


def _parts(outcome: ComparisonOutcome, labels: Sequence[str]) -> Iterator[ClaimPart]:
    effects = () if outcome.heterogeneity is None else outcome.heterogeneity.effects
    for label, effect in zip(labels, effects, strict=False):
        yield ClaimPart(label=label, effect=effect)


def _fill(
    claim: Claim,
    outcome: ComparisonOutcome,
    *,
    parts: tuple[ClaimPart, ...] = (),
    empty: str = "",
) -> Claim:
    number = outcome.decision.difference.num_clusters
    few = {explain_few_clusters(number): explain_few_clusters(number, name=claim.unit.evidence)}
    reason, recipe_reason = outcome.decision.reason, outcome.recipe.decision.reason
    return dataclasses.replace(
        claim,
        decision=outcome.decision,
        recipe=outcome.recipe,
        parts=parts,
        heterogeneity=outcome.heterogeneity,
        notes=(*claim.notes, *outcome.notes),
        reason=few.get(reason, reason),
        recipe_reason=few.get(recipe_reason, recipe_reason),
        empty_support=f"{empty} does not exceed its blind and majority baselines" if empty else "",
    )
