"""Statistics of human judgements: preferences, acceptance rates and agreement."""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from core.errors import DataError
from evaluation.people.store import JUDGED_ASPECTS, SKIP, TIE, AnnotationStore, Judgement
from evaluation.people.tasks import TaskKind
from evaluation.statistics.intervals import wilson_interval
from evaluation.statistics.resampling import bootstrap_means

_ELO_SCALE = 400.0
_PSEUDO_COUNT = 0.5
"""Added to the wins of either side, so that the strength is finite if one side wins everything."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Preference of the annotators in one question of a comparison."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    skipped: int
    share: float
    """Share of judgements that prefer `first`, with ties counted half."""
    low: float
    high: float
    """Upper bound of the 95 % interval of the share, resampled by image."""
    elo: float
    """Bradley-Terry strength of `first` over `second` in Elo points (400 for odds of 10:1)."""
    elo_low: float
    elo_high: float
    alpha: float | None
    """Krippendorff's alpha over tasks with several annotators; None if there are no such tasks."""


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
    alpha: float | None


def preferences(store: AnnotationStore, *, seed: int = 0) -> dict[str, Preference]:
    """Return the preferences in every question of a comparison.

    Raises:
        DataError: If the tasks are not comparisons, or there are no judgements.
    """
    if store.kind is not TaskKind.COMPARE:
        raise DataError(f"{store.path} has tasks of kind {store.kind}, not comparisons")
    judgements = store.judgements()
    return {
        question: _preference(store, judgements, question, seed)
        for question in JUDGED_ASPECTS[TaskKind.COMPARE]
    }


def acceptance(store: AnnotationStore) -> Acceptance:
    """Return the acceptance of translated items.

    Raises:
        DataError: If the tasks are not translations, or there are no judgements.
    """
    if store.kind is not TaskKind.VALIDATE:
        raise DataError(f"{store.path} has tasks of kind {store.kind}, not translations")
    verdicts = [(j.task_id, j.annotator, j.answers["verdict"]) for j in store.judgements()]
    count = Counter(verdict for _, _, verdict in verdicts)
    first: dict[str, str] = {}
    for task, _, verdict in verdicts:
        if verdict != SKIP:
            first.setdefault(task, verdict)
    if not first:
        raise DataError("nothing has been judged yet")
    good = sum(verdict == "accept" for verdict in first.values())
    low, high = wilson_interval(good, len(first))
    return Acceptance(
        accepted=count["accept"],
        fixed=count["fix"],
        rejected=count["reject"],
        skipped=count[SKIP],
        share=good / len(first),
        low=low,
        high=high,
        alpha=krippendorff([v for v in verdicts if v[2] != SKIP]),
    )


def krippendorff(ratings: Sequence[tuple[str, str, str]]) -> float | None:
    """Return Krippendorff's nominal alpha of (unit, annotator, value) triples.

    Alpha is 1 - observed / expected disagreement (Krippendorff, Content Analysis, 2004, section
    11.3). The result is None if no unit has two ratings, or if only one value occurs, for which
    alpha is undefined.
    """
    units: dict[str, list[str]] = defaultdict(list)
    for unit, _, value in ratings:
        units[unit].append(value)
    paired = [values for values in units.values() if len(values) > 1]
    total = Counter(value for values in paired for value in values)
    n = sum(total.values())
    expected = n * n - sum(count * count for count in total.values())
    if not paired or expected == 0:
        return None
    observed = 0.0
    for values in paired:
        counts = Counter(values)
        differing = len(values) ** 2 - sum(count * count for count in counts.values())
        observed += differing / (len(values) - 1)
    return 1.0 - (n - 1) * observed / expected


def _preference(
    store: AnnotationStore, judgements: Sequence[Judgement], question: str, seed: int
) -> Preference:
    first, second = sorted(store.tasks[0].content)
    answered = [(j.task_id, j.annotator, j.answers[question]) for j in judgements]
    count = Counter(answer for _, _, answer in answered)
    judged = [entry for entry in answered if entry[2] != SKIP]
    if not judged:
        raise DataError("nothing has been judged yet")
    value: Mapping[str, float] = {first: 1.0, TIE: 0.5, second: 0.0}
    scores = np.array([value[answer] for _, _, answer in judged])
    clusters = [store.task(task).image_key or task for task, _, _ in judged]
    means = bootstrap_means(scores, clusters, seed=seed, names=("people", question))
    low, high = (float(x) for x in np.quantile(means, [0.025, 0.975]))
    size = len(scores)
    elos = [_elo(mean, size) for mean in (float(scores.mean()), low, high)]
    return Preference(
        first=first,
        second=second,
        wins=count[first],
        losses=count[second],
        ties=count[TIE],
        skipped=count[SKIP],
        share=float(scores.mean()),
        low=low,
        high=high,
        elo=elos[0],
        elo_low=elos[1],
        elo_high=elos[2],
        alpha=krippendorff(judged),
    )


def _elo(share: float, size: int) -> float:
    """Return the Bradley-Terry strength for two systems, with ties split between them."""
    wins, losses = share * size + _PSEUDO_COUNT, (1 - share) * size + _PSEUDO_COUNT
    return _ELO_SCALE * math.log10(wins / losses)
