"""Estimates from preferences, over all questions and over those with different replies.

Equal replies are ties: over all questions they count half for either system. Every question counts
once, however many people judged it. Intervals are clustered by image and by rater
(`evaluation.statistics.ratings.linearised`).
"""

import dataclasses
import math
from enum import StrEnum

import numpy as np

from core.errors import DataError
from evaluation.people.comparison import ComparedQuestion
from evaluation.people.preferences import OVERALL, PreferenceRecord, PreferenceSource
from evaluation.statistics.intervals import CONFIDENCE, Interval
from evaluation.statistics.ratings.linearised import (
    NO_RATER,
    ClusteredEstimate,
    Linearisation,
    Ratings,
    linearise_mean,
    linearise_share,
)
from evaluation.statistics.small_samples import student_quantile

ELO_SCALE = 400.0
"""Elo points for odds of 10 to 1."""


class QuestionPopulation(StrEnum):
    """Questions that an estimate concerns."""

    ALL = "all"
    """All questions; equal replies count as ties."""
    DIFFERING = "differing"
    """Questions with different replies only; conditional on a difference."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EloDifference:
    """Bradley-Terry strength of the first over the second system in Elo points."""

    value: float | None
    """Maximum likelihood estimate; None if it is infinite, because one system won everything."""
    low: float | None
    """Lower bound of the 95 % interval; None if it is infinite or refused."""
    high: float | None
    """Upper bound of the 95 % interval; None if it is infinite or refused."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PopulationEstimates:
    """Estimates of one population of questions, all of them for the first system."""

    population: QuestionPopulation
    num_questions: int
    share: Interval
    """Share that prefers the first system, with ties counted half, in 0..1."""
    net: Interval
    """Share that prefers the first minus share that prefers the second, in -1..1."""
    win_rate: Interval
    """Share that prefers the first, in 0..1; ties are not wins."""
    tie_rate: Interval
    """Share of ties, in 0..1."""
    elo: EloDifference


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgedQuestions:
    """The readable opinions on one aspect in one language, and all questions of the language."""

    questions: tuple[ComparedQuestion, ...]
    judged: tuple[ComparedQuestion, ...]
    """Questions with at least one opinion, by item index of `ratings`."""
    ratings: Ratings
    """Preferences for the first system in -1..1."""

    @property
    def num_clusters(self) -> int:
        """Number of images of judged questions."""
        return len(np.unique(self.ratings.clusters_J))


def select_judged(
    record: PreferenceRecord, *, language: str, aspect: str = OVERALL
) -> JudgedQuestions:
    """Return the opinions on one aspect in one language.

    The ratings of a judge have no rater, because there is no population of judges to generalise to.

    Raises:
        DataError: If there are none.
    """
    own = {q.task_id: q for q in record.comparison.questions if q.language == language}
    opinions = [
        opinion
        for opinion in record.opinions
        if opinion.task_id in own and opinion.aspect == aspect and opinion.preference is not None
    ]
    if not opinions:
        raise DataError(f"nothing has been judged yet in '{language}' on the aspect '{aspect}'")
    items = {task: item for item, task in enumerate(dict.fromkeys(o.task_id for o in opinions))}
    judged = tuple(own[task] for task in items)
    is_judge = record.source is PreferenceSource.JUDGE
    return JudgedQuestions(
        questions=tuple(own.values()),
        judged=judged,
        ratings=Ratings(
            values_J=np.array([o.preference for o in opinions], dtype=np.float64),
            items_J=np.array([items[o.task_id] for o in opinions]),
            clusters_J=np.array([image_of(own[o.task_id]) for o in opinions]),
            raters_J=np.array([NO_RATER if is_judge else o.rater for o in opinions]),
        ),
    )


def image_of(question: ComparedQuestion) -> str:
    """Return the cluster of a question: its image, or itself without one."""
    return question.image_key or question.task_id


def find_gap(record: PreferenceRecord, language: str) -> str:
    """Return why the judged questions are not a random sample, or an empty string if they are.

    Tasks are handed out in random order, so the questions judged or skipped so far are the first
    ones of that order. Others were chosen by somebody, for example before an import.
    """
    answered = {opinion.task_id for opinion in record.opinions}
    places = sorted(
        question.place
        for question in record.comparison.questions
        if question.language == language
        and question.place is not None
        and question.task_id in answered
    )
    missing = next((at for at, place in enumerate(places) if at != place), None)
    if missing is None:
        return ""
    return (
        f"question {missing} of the random order has not been judged, but later ones have; judge "
        "the tasks in the order of the draw"
    )


def linearise_population(
    differing: Linearisation,
    questions: tuple[ComparedQuestion, ...],
    population: QuestionPopulation,
    *,
    tie_value: float = 0.0,
) -> Linearisation:
    """Return an estimate over a population from the estimate over the differing questions.

    Args:
        differing: Estimate over the questions with different replies.
        questions: All questions, by which the share of equal replies is known.
        population: The population.
        tie_value: Value of a question with equal replies.
    """
    if population is QuestionPopulation.DIFFERING:
        return differing
    is_identical_N = np.array([question.is_identical for question in questions], dtype=np.float64)
    identical = linearise_share(is_identical_N, [image_of(question) for question in questions])
    shift = identical.scaled(tie_value - differing.value)
    both = differing.scaled(1 - identical.value).plus(shift)
    value = identical.value * tie_value + (1 - identical.value) * differing.value
    return dataclasses.replace(both, value=value, num_items=len(questions))


def estimate_net(
    judged: JudgedQuestions, population: QuestionPopulation = QuestionPopulation.ALL
) -> ClusteredEstimate:
    """Return the share that prefers the first system minus that of the second, in -1..1."""
    return linearise_population(
        linearise_mean(judged.ratings), judged.questions, population
    ).estimate(judged.num_clusters)


def estimate_population(
    judged: JudgedQuestions, population: QuestionPopulation
) -> PopulationEstimates:
    """Return all estimates of a population."""
    net = estimate_net(judged, population)
    wins = _rate(judged, population, judged.ratings.values_J > 0, tie_value=0.0)
    ties = _rate(judged, population, judged.ratings.values_J == 0, tie_value=1.0)
    share, elo = share_and_elo(net)
    return PopulationEstimates(
        population=population,
        num_questions=net.num_items,
        share=share,
        net=net.interval(),
        win_rate=wins,
        tie_rate=ties,
        elo=elo,
    )


def share_and_elo(net: ClusteredEstimate) -> tuple[Interval, EloDifference]:
    """Return the share with ties counted half and the Elo difference with 95 % intervals.

    Both intervals are symmetric on the scale of log odds, so the share stays within 0..1.
    """
    linear = net.interval()
    value = (1 + net.value) / 2
    low, high = (None if end is None else (1 + end) / 2 for end in (linear.low, linear.high))
    if low is not None and 0 < value < 1 and net.standard_error > 0:
        half = student_quantile(CONFIDENCE, net.df) * net.standard_error / 2
        half /= value * (1 - value)
        low, high = (_expit(math.log(value / (1 - value)) + sign * half) for sign in (-1, 1))
    share = Interval(
        value=value,
        low=low,
        high=high,
        num_items=net.num_items,
        num_clusters=net.num_clusters,
    )
    return share, EloDifference(value=elo_of(value), low=elo_of(low), high=elo_of(high))


def elo_of(share: float | None) -> float | None:
    """Return the Bradley-Terry strength for two systems, or None if it is infinite or unknown."""
    if share is None or not 0 < share < 1:
        return None
    return ELO_SCALE * math.log10(share / (1 - share))


def _rate(
    judged: JudgedQuestions,
    population: QuestionPopulation,
    is_hit_J: np.ndarray,
    *,
    tie_value: float,
) -> Interval:
    """Return the share of a kind of opinion, in 0..1."""
    ratings = dataclasses.replace(judged.ratings, values_J=is_hit_J.astype(np.float64))
    found = linearise_population(
        linearise_mean(ratings), judged.questions, population, tie_value=tie_value
    )
    interval = found.estimate(judged.num_clusters).interval()
    low = None if interval.low is None else max(0.0, interval.low)
    return dataclasses.replace(interval, low=low)


def _expit(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))
