"""Statistics of human judgements: preferences, acceptance rates and agreement among people."""

import dataclasses
from collections import Counter

import numpy as np

from core.errors import DataError
from evaluation.people.estimates import (
    PopulationEstimates,
    QuestionPopulation,
    estimate_population,
    find_gap,
    select_judged,
)
from evaluation.people.preferences import (
    ASPECTS,
    PreferenceRecord,
    PreferenceSource,
    people_record,
)
from evaluation.people.store import SKIP, AnnotationStore
from evaluation.people.tasks import TaskKind
from evaluation.statistics.intervals import Interval, wilson_interval
from evaluation.statistics.ratings.agreement import krippendorff_alpha


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceSummary:
    """Preferences of people or of a judge in one language and one aspect."""

    source: PreferenceSource
    language: str
    aspect: str
    first: str
    second: str
    num_questions: int
    num_identical: int
    """Questions with equal replies: ties by definition."""
    num_judged: int
    """Questions with at least one readable opinion."""
    num_not_judged: int
    """Questions with different replies that were not drawn or not judged."""
    num_wins: int
    """Opinions that prefer the first system; several people may have judged a question."""
    num_losses: int
    num_ties: int
    num_skipped: int
    """Opinions that were skipped or are unreadable."""
    raters: tuple[str, ...]
    sampling_fault: str
    """Why the judged questions are not a random sample; empty if they are."""
    populations: tuple[PopulationEstimates, PopulationEstimates]
    """Over all questions, and over those with different replies."""
    alpha: Interval | None
    """Krippendorff's alpha over questions with several opinions; None without such questions."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Acceptance:
    """Acceptance of translated items."""

    accepted: int
    fixed: int
    rejected: int
    skipped: int
    share: float
    """Share of judged tasks that were accepted unchanged."""
    low: float
    high: float
    """Upper bound of Wilson's 95 % interval over tasks, by the first judgement of each."""
    alpha: Interval | None


def preferences(store: AnnotationStore) -> tuple[PreferenceSummary, ...]:
    """Return the preferences in an annotation database, per language and aspect.

    Raises:
        DataError: If the tasks are not comparisons, or there are no judgements.
    """
    return summarise_record(people_record(store))


def summarise_record(record: PreferenceRecord) -> tuple[PreferenceSummary, ...]:
    """Return the preferences of a record, per language and judged aspect.

    Raises:
        DataError: If there are no readable opinions.
    """
    languages = {question.task_id: question.language for question in record.comparison.questions}
    judged = {
        (languages[opinion.task_id], opinion.aspect)
        for opinion in record.opinions
        if opinion.preference is not None
    }
    if not judged:
        raise DataError("nothing has been judged yet")
    return tuple(
        summarise_preferences(record, language=language, aspect=aspect)
        for language, aspect in sorted(judged, key=lambda pair: (pair[0], ASPECTS.index(pair[1])))
    )


def summarise_preferences(
    record: PreferenceRecord, *, language: str, aspect: str
) -> PreferenceSummary:
    """Return the preferences in one language and one aspect.

    Raises:
        DataError: If there are no readable opinions.
    """
    judged = select_judged(record, language=language, aspect=aspect)
    own = {question.task_id for question in judged.questions}
    opinions = [o for o in record.opinions if o.task_id in own and o.aspect == aspect]
    readable = [o for o in opinions if o.preference is not None]
    counts = Counter(np.sign(judged.ratings.values_J).tolist())
    num_identical = sum(question.is_identical for question in judged.questions)
    ratings = judged.ratings
    return PreferenceSummary(
        source=record.source,
        language=language,
        aspect=aspect,
        first=record.comparison.first.name,
        second=record.comparison.second.name,
        num_questions=len(judged.questions),
        num_identical=num_identical,
        num_judged=len(judged.judged),
        num_not_judged=len(judged.questions) - num_identical - len(judged.judged),
        num_wins=counts[1],
        num_losses=counts[-1],
        num_ties=counts[0],
        num_skipped=len(opinions) - len(readable),
        raters=tuple(sorted({o.rater for o in opinions})),
        sampling_fault=find_gap(record, language),
        populations=(
            estimate_population(judged, QuestionPopulation.ALL),
            estimate_population(judged, QuestionPopulation.DIFFERING),
        ),
        alpha=krippendorff_alpha(
            [o.task_id for o in readable],
            [str(o.preference) for o in readable],
            ratings.clusters_J,
            [o.rater for o in readable],
        ),
    )


def acceptance(store: AnnotationStore) -> Acceptance:
    """Return the acceptance of translated items.

    Raises:
        DataError: If the tasks are not translations, or there are no judgements.
    """
    if store.kind is not TaskKind.VALIDATE:
        raise DataError(f"{store.path} has tasks of kind {store.kind}, not translations")
    verdicts = [(j.task_id, j.annotator, j.answers["verdict"]) for j in store.judgements()]
    count = Counter(verdict for _, _, verdict in verdicts)
    judged = [entry for entry in verdicts if entry[2] != SKIP]
    first: dict[str, str] = {}
    for task, _, verdict in judged:
        first.setdefault(task, verdict)
    if not first:
        raise DataError("nothing has been judged yet")
    good = sum(verdict == "accept" for verdict in first.values())
    low, high = wilson_interval(good, len(first))
    tasks, annotators, values = zip(*judged, strict=True)
    images = [store.task(task).image_key or task for task in tasks]
    return Acceptance(
        accepted=count["accept"],
        fixed=count["fix"],
        rejected=count["reject"],
        skipped=count[SKIP],
        share=good / len(first),
        low=low,
        high=high,
        alpha=krippendorff_alpha(tasks, values, images, annotators),
    )
