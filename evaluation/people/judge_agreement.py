"""A judge compared with people, and the two combined.

People judge a random sample of the questions, the judge all of them. Their agreement says how far
the judge can be trusted, and prediction-powered inference uses the judge no further than that.
"""

import dataclasses

import numpy as np

from core.errors import DataError
from evaluation.people.estimates import (
    JudgedQuestions,
    QuestionPopulation,
    estimate_net,
    find_gap,
    image_of,
    linearise_population,
    select_judged,
)
from evaluation.people.preferences import OVERALL, PreferenceRecord, PreferenceSource
from evaluation.statistics.decisions import ALPHA, Decision, Verdict
from evaluation.statistics.intervals import Interval
from evaluation.statistics.ratings.agreement import cohen_kappa, correlation, raw_agreement
from evaluation.statistics.ratings.linearised import ClusteredEstimate
from evaluation.statistics.ratings.prediction_powered import PoweredMean, powered_mean


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceClaim:
    """A claim on the net preference for the first over the second system."""

    language: str
    test: str
    """non_inferiority, equivalence or superiority."""
    delta: float
    """Margin of the net preference in 0..1; 0.1 means 55 against 45 %."""
    aspect: str = OVERALL
    """Judged aspect: content, language or overall."""
    population: QuestionPopulation = QuestionPopulation.ALL
    """Questions that the claim concerns; equal replies are ties."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgeAgreement:
    """Agreement of a judge with people in one language, and the estimate that combines them.

    Agreement concerns questions with different replies that both judged, each of which counts once.
    The categories are first, second and tie; a judge prefers the system with the higher sum of
    rewards in the two orders. Correlations concern the mean preference of the people and the mean
    reward of the judge.
    """

    language: str
    judge: str
    """Model name of the judge."""
    annotators: tuple[str, ...]
    first: str
    second: str
    num_common: int
    """Questions with different replies that people and the judge judged."""
    num_identical: int
    """Questions with equal replies, which are left out of the agreement."""
    num_unreadable: int
    """Questions without a readable verdict of the judge; it is taken to predict a tie there."""
    agreement: Interval | None
    kappa: Interval | None
    """Cohen's kappa; None if it is undefined."""
    pearson: Interval | None
    spearman: Interval | None
    people: Interval
    """Net preference of people for the first system over all questions, in -1..1."""
    judged: Interval
    """The same of the judge."""
    powered: Interval
    """The same by prediction-powered inference."""
    power: float
    """Weight of the judge (lambda) in 0..1."""
    width_ratio: float
    """Standard error of the prediction-powered estimate over that of people alone."""


def match_people(people: PreferenceRecord, judge: PreferenceRecord) -> PreferenceRecord:
    """Return the judge's record with the systems in the order of the people's.

    Raises:
        DataError: If a record is of the wrong source, or they concern other replies.
    """
    if (people.source, judge.source) != (PreferenceSource.PEOPLE, PreferenceSource.JUDGE):
        raise DataError(
            f"got preferences of {people.source} and {judge.source}; expected people and a judge"
        )
    oriented = orient(judge, people.comparison.first.sha256, people.comparison.second.sha256)
    if oriented is None:
        raise DataError(
            f"people compared {people.comparison.first.name} with {people.comparison.second.name} "
            "using different predictions than the judge; use the same two files"
        )
    return oriented


def orient(
    record: PreferenceRecord, first_sha256: str, second_sha256: str
) -> PreferenceRecord | None:
    """Return a record with these predictions as first and second system, or None if it has others.

    Args:
        record: Preferences of people or a judge.
        first_sha256: Checksum of the first system's predictions.parquet.
        second_sha256: Checksum of the second system's file.
    """
    found = (record.comparison.first.sha256, record.comparison.second.sha256)
    if found == (first_sha256, second_sha256):
        return record
    return record.swapped() if found == (second_sha256, first_sha256) else None


def compare_with_people(
    people: PreferenceRecord, judge: PreferenceRecord, *, language: str
) -> JudgeAgreement:
    """Compare the overall preferences of a judge with those of people in one language.

    Raises:
        DataError: If the records do not concern the same replies, the people's sample is not
            random, or one of them has judged nothing.
    """
    judge = match_people(people, judge)
    human = select_judged(people, language=language)
    machine = select_judged(judge, language=language)
    verdicts = dict(
        zip([q.task_id for q in machine.judged], machine.ratings.item_means(), strict=True)
    )
    is_common_I = np.array([question.task_id in verdicts for question in human.judged])
    if not is_common_I.any():
        raise DataError(f"no question in '{language}' was judged by both people and the judge")
    powered = combine(people, judge, language=language)
    alone = estimate_net(human)
    combined = powered.linearisation.estimate(powered.num_clusters)
    ratings = human.ratings
    kept_J = is_common_I[ratings.items_J]
    predicted_I = np.array([verdicts.get(question.task_id, 0.0) for question in human.judged])
    first, second = np.sign(ratings.values_J[kept_J]), np.sign(predicted_I[ratings.items_J][kept_J])
    clusters, raters = ratings.clusters_J[kept_J], ratings.raters_J[kept_J]
    weights = ratings.weights()[kept_J]
    images = np.array([image_of(q) for q in human.judged])[is_common_I]
    means, rewards = ratings.item_means()[is_common_I], predicted_I[is_common_I]
    own = {question.task_id for question in machine.questions}
    return JudgeAgreement(
        language=language,
        judge=", ".join(judge.raters),
        annotators=tuple(sorted(set(ratings.raters_J.tolist()))),
        first=people.comparison.first.name,
        second=people.comparison.second.name,
        num_common=int(is_common_I.sum()),
        num_identical=sum(question.is_identical for question in human.questions),
        num_unreadable=sum(o.preference is None for o in judge.opinions if o.task_id in own),
        agreement=raw_agreement(first, second, clusters, weights=weights, raters=raters),
        kappa=cohen_kappa(first, second, clusters, weights=weights, raters=raters),
        pearson=correlation(means, rewards, images),
        spearman=correlation(means, rewards, images, by_rank=True),
        people=alone.interval(),
        judged=estimate_net(machine).interval(),
        powered=combined.interval(),
        power=powered.power,
        width_ratio=_ratio(combined, alone),
    )


def combine(
    people: PreferenceRecord,
    judge: PreferenceRecord,
    *,
    language: str,
    aspect: str = OVERALL,
    population: QuestionPopulation = QuestionPopulation.ALL,
) -> PoweredMean:
    """Return the net preference for the first system by prediction-powered inference, in -1..1.

    Args:
        people: Judgements of people on a random sample.
        judge: Verdicts of a judge on all questions, or on a larger random sample of the same draw.
        language: Language of the questions.
        aspect: Aspect that people judged; the judge's verdict is always the overall one.
        population: Questions that the estimate concerns.

    Raises:
        DataError: If the records do not concern the same replies, the sample of the people is not
            random, or the judge has not been asked about a question that people judged.
    """
    judge = match_people(people, judge)
    for record in (people, judge):
        if fault := find_gap(record, language):
            raise DataError(
                f"the {record.source} sample in '{language}' is not random: {fault}. "
                "Prediction-powered inference would be biased"
            )
    human = select_judged(people, language=language, aspect=aspect)
    asked = _predictions(judge, human)
    rated = [asked[q.task_id] for q in human.judged if q.task_id in asked]
    if len(rated) != len(human.judged):
        raise DataError(
            f"people judged {len(human.judged) - len(rated)} questions in '{language}' that the "
            "judge did not rate; run the judge without --most"
        )
    images = {question.task_id: image_of(question) for question in human.questions}
    powered = powered_mean(
        np.array(list(asked.values())),
        np.array([images[task] for task in asked]),
        np.array(rated),
        human.ratings,
    )
    everything = linearise_population(powered.linearisation, human.questions, population)
    return dataclasses.replace(powered, linearisation=everything)


def preference_decision(
    people: PreferenceRecord,
    claim: PreferenceClaim,
    *,
    judge: PreferenceRecord | None = None,
    alpha: float = ALPHA,
) -> Decision:
    """Decide a claim on preferences for the first over the second system.

    The difference is the net preference: the share of questions that prefers the first system minus
    the share that prefers the second.

    Args:
        people: Preferences of people, or of a judge if the claim is about the judge's verdicts.
        claim: The claim.
        judge: Verdicts on all questions, to be combined with the people's by prediction-powered
            inference.
        alpha: Level of the decision.

    Returns:
        The decision; undecided with a reason if the judged questions are not a random sample.

    Raises:
        DataError: If nothing has been judged, the records do not fit together, or the test or the
            margin is invalid.
    """
    judged = select_judged(people, language=claim.language, aspect=claim.aspect)
    fault = find_gap(people, claim.language)
    if judge is None or fault:
        estimate = estimate_net(judged, claim.population)
    else:
        powered = combine(
            people,
            judge,
            language=claim.language,
            aspect=claim.aspect,
            population=claim.population,
        )
        estimate = powered.linearisation.estimate(powered.num_clusters)
    decision = estimate.decide(claim.test, delta=claim.delta, alpha=alpha)
    if not fault:
        return decision
    return dataclasses.replace(
        decision,
        verdict=Verdict.UNDECIDED,
        p_supported=1.0,
        p_refuted=1.0,
        clusters_needed=None,
        reason=f"not a random sample: {fault}",
    )


def _predictions(judge: PreferenceRecord, human: JudgedQuestions) -> dict[str, float]:
    """Return the judge's preference on every question that it was asked; unreadable ones are 0.

    Prediction-powered inference is valid for any prediction, so a tie may stand for no verdict.
    """
    own = {question.task_id for question in human.questions}
    return {o.task_id: o.preference or 0.0 for o in judge.opinions if o.task_id in own}


def _ratio(combined: ClusteredEstimate, alone: ClusteredEstimate) -> float:
    return combined.standard_error / alone.standard_error if alone.standard_error > 0 else 1.0
