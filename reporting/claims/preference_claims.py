"""Claims about preferences of people or a judge between two cells of a grid."""

import dataclasses

from core.errors import DataError
from core.io.files import sha256_file
from evaluation.people.judge_agreement import PreferenceClaim, orient, preference_decision
from evaluation.people.preferences import (
    PREFERENCES_FOLDER,
    PreferenceRecord,
    PreferenceSource,
    load_preferences,
)
from evaluation.statistics.decisions import Decision, Verdict
from evaluation.statistics.trainings.recipes import RecipeDecision
from reporting.claims.claim_decisions import ComparisonOutcome
from reporting.claims.hypotheses_schema import ClaimKind, Comparison
from reporting.records import CellRecord, GridRecord
from reporting.settings import Setting, configured_axes

_SOURCES = {ClaimKind.PEOPLE: PreferenceSource.PEOPLE, ClaimKind.JUDGE: PreferenceSource.JUDGE}


class GridPreferences:
    """The preference records of a grid, found by the checksums of the compared predictions."""

    def __init__(self, grid: GridRecord) -> None:
        self._records = load_preferences(grid.folder / PREFERENCES_FOLDER)
        self._checksums: dict[Setting, list[str]] = {}
        for cell in grid.cells if self._records else ():
            if (checksum := _checksum(cell)) is not None:
                setting = configured_axes(cell.axes)
                self._checksums.setdefault(setting, []).append(checksum)

    def find(
        self, kind: ClaimKind, pair: tuple[Setting, Setting], language: str
    ) -> PreferenceRecord | None:
        """Return the preferences for the first over the second cell; None if there are none.

        Raises:
            DataError: If several records compare the same cells.
        """
        source = _SOURCES[kind]
        firsts, seconds = (self._checksums.get(cell, []) for cell in pair)
        found = [
            oriented
            for record in self._records
            if record.source is source and language in record.comparison.languages
            for first in firsts
            for second in seconds
            if (oriented := orient(record, first, second)) is not None
        ]
        if len(found) > 1:
            raise DataError(
                f"{len(found)} records of {source.value} compare the same cells in '{language}'; "
                f"keep one of them in the folder {PREFERENCES_FOLDER}/ of the grid"
            )
        return found[0] if found else None


def decide_preference(
    record: PreferenceRecord, language: str, *, test: Comparison, margin: float, alpha: float
) -> ComparisonOutcome:
    """Decide a claim about the preferences between two cells.

    Args:
        record: The preferences.
        language: Language of the questions.
        test: The test. Superiority has no margin.
        margin: Margin of the share that prefers the first minus that which prefers the second.
        alpha: Level for which the needed images are computed.
    """
    delta = 0.0 if test is Comparison.SUPERIORITY else margin
    claim = PreferenceClaim(language=language, test=test.value, delta=delta)
    decision = preference_decision(record, claim, alpha=alpha)
    return ComparisonOutcome(decision=decision, recipe=_undecided(decision))


def _checksum(cell: CellRecord) -> str | None:
    stage = cell.evaluation
    if stage is None or not stage.predictions.is_file():
        return None
    return sha256_file(stage.predictions)


def _undecided(decision: Decision) -> RecipeDecision:
    """Return the note that preferences between trained models do not cover other trainings."""
    nothing = dataclasses.replace(
        decision,
        verdict=Verdict.UNDECIDED,
        p_supported=1.0,
        p_refuted=1.0,
        reason="the replies of two trained models were compared, not those of other trainings",
    )
    return RecipeDecision(decision=nothing, df=None, more_seeds=None, more_images=None)
