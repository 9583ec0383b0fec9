"""Preferences of people and judges in a grid: one row per comparison, language and aspect."""

import dataclasses

from core.errors import DataError
from core.io.files import sha256_file
from evaluation.people.judge_agreement import compare_with_people, orient
from evaluation.people.measures import PreferenceSummary, summarise_record
from evaluation.people.preferences import (
    PREFERENCES_FOLDER,
    PreferenceRecord,
    PreferenceSource,
    load_preferences,
)
from evaluation.statistics.intervals import Interval
from reporting.records import GridRecord


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceRow:
    """Preferences for the first over the second system; shares are formatted in percent."""

    source: str
    first: str
    second: str
    language: str
    aspect: str
    share: str
    """Share over all questions, in which equal replies are ties."""
    share_differing: str
    """Share over the questions with different replies."""
    judged: str
    """Numbers of judged and of equal questions, of all."""
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AgreementRow:
    """Agreement of a judge with people, and the net preference that combines them."""

    judge: str
    first: str
    second: str
    language: str
    agreement: str
    kappa: str
    people: str
    powered: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceSection:
    """The section of the report about people and judges."""

    preferences: tuple[PreferenceRow, ...]
    agreements: tuple[AgreementRow, ...]


def preference_section(grid: GridRecord) -> PreferenceSection | None:
    """Return the preferences in the folder of a grid, or None if there are none.

    Raises:
        DataError: If a file is damaged.
    """
    records = load_preferences(grid.folder / PREFERENCES_FOLDER)
    if not records:
        return None
    cells = {
        sha256_file(cell.evaluation.predictions): cell.cell_id
        for cell in grid.cells
        if cell.evaluation is not None and cell.evaluation.predictions.is_file()
    }
    rows = [
        _preference_row(record, summary, cells)
        for record in records
        if any(opinion.preference is not None for opinion in record.opinions)
        for summary in summarise_record(record)
    ]
    people = [record for record in records if record.source is PreferenceSource.PEOPLE]
    judges = [record for record in records if record.source is PreferenceSource.JUDGE]
    agreements = [
        row for human in people for judge in judges for row in _agreement_rows(human, judge, cells)
    ]
    return PreferenceSection(preferences=tuple(rows), agreements=tuple(agreements))


def _preference_row(
    record: PreferenceRecord, summary: PreferenceSummary, cells: dict[str, str]
) -> PreferenceRow:
    every, differing = summary.populations
    first, second = _names(record, cells)
    return PreferenceRow(
        source=f"{record.source}: {', '.join(summary.raters)}"
        if record.source is PreferenceSource.JUDGE
        else f"{len(summary.raters)} people",
        first=first,
        second=second,
        language=summary.language,
        aspect=summary.aspect,
        share=_format(every.share, 100),
        share_differing=_format(differing.share, 100),
        judged=f"{summary.num_judged} judged, {summary.num_identical} equal, of "
        f"{summary.num_questions}",
        note=summary.sampling_fault,
    )


def _agreement_rows(
    people: PreferenceRecord, judge: PreferenceRecord, cells: dict[str, str]
) -> list[AgreementRow]:
    systems = people.comparison
    if orient(judge, systems.first.sha256, systems.second.sha256) is None:
        return []
    first, second = _names(people, cells)
    rows = []
    for language in sorted({*systems.languages} & {*judge.comparison.languages}):
        try:
            found = compare_with_people(people, judge, language=language)
        except DataError as error:
            unknown = "not compared"
            kappa, share, alone, powered = unknown, unknown, unknown, str(error)
            name = ", ".join(judge.raters)
        else:
            name = found.judge
            kappa, share = _format(found.kappa, 1), _format(found.agreement, 100)
            alone, powered = _format(found.people, 100), _format(found.powered, 100)
        rows.append(
            AgreementRow(
                judge=name,
                first=first,
                second=second,
                language=language,
                agreement=share,
                kappa=kappa,
                people=alone,
                powered=powered,
            )
        )
    return rows


def _names(record: PreferenceRecord, cells: dict[str, str]) -> tuple[str, str]:
    """Return the names of the systems, with the cell that has the same predictions if any."""
    first, second = (
        f"{system.name} ({cells[system.sha256]})" if system.sha256 in cells else system.name
        for system in (record.comparison.first, record.comparison.second)
    )
    return first, second


def _format(interval: Interval | None, scale: int) -> str:
    """Format a value and its interval, with one decimal for percentages and two otherwise."""
    if interval is None:
        return "undefined"
    digits = 1 if scale > 1 else 2
    text = f"{scale * interval.value:.{digits}f}"
    if interval.low is None or interval.high is None:
        return f"{text} (too few images for an interval)"
    return f"{text} [{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"
