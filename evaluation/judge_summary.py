"""Verdicts of a judge on two systems, and their summary, in the manner of WildVision-Bench.

WildVision-Bench (Lu et al. 2024) lets gpt-4o compare every system with the replies of
claude-3-sonnet, using its own prompt. Here two systems are compared directly, by any judge with the
prompt in `evaluation.judge`, so the numbers are not those of its leaderboard. As in its
`show_results.py`, labels are worth -100, -50, 0, 50 and 100, a question is won if the sum of its
rewards is positive, and strong preferences count three times in the Elo difference, where a tie is
half a win for either. Unlike there, the reward of a question is the mean of both orders, which is
on the scale of its published single games (its code adds two games up, -200 to 200), and unreadable
verdicts are left out instead of counting as ties.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from core.errors import ConfigError
from evaluation.people.comparison import ComparedQuestion, SystemComparison
from evaluation.people.estimates import ELO_SCALE, EloDifference, image_of
from evaluation.people.measures import PreferenceSummary, summarise_record
from evaluation.people.preferences import OVERALL, Opinion, PreferenceRecord, PreferenceSource
from evaluation.statistics.ratings.linearised import NO_RATER, Linearisation

REWARDS = {"A>>B": 1.0, "A>B": 0.5, "A=B": 0.0, "B>A": -0.5, "B>>A": -1.0}
_STRONG_WEIGHT = 3
"""Weight of a strong preference in the Elo difference, as in WildVision-Bench."""
_NUM_ORDERS = 2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgeVerdict:
    """The judge's verdict on one question in one order."""

    task_id: str
    image_key: str
    first: str
    """Name of the system shown as A."""
    label: str
    """One of the five labels; empty if the reply has none."""
    reply: str
    is_truncated: bool = False
    """The reply reached the token limit, so its label may be missing."""

    def reward(self, system: str) -> float | None:
        """Return the reward of a system in -1..1, or None if the verdict is unreadable."""
        if not self.label:
            return None
        value = REWARDS[self.label]
        return value if self.first == system else -value


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgeReport:
    """Result of judging the first system against the second in one language."""

    protocol: str
    """What the numbers can be compared with."""
    language: str
    num_unreadable: int
    """Verdicts without a label."""
    num_truncated: int
    """Verdicts whose reply reached the token limit."""
    num_inconsistent: int
    """Questions whose two orders prefer different systems."""
    first_position: float
    """Percentage of decided verdicts for the system shown first; an unbiased judge has 50 %."""
    reward: float
    """Mean reward of the first system over all questions in -100..100; equal replies have 0."""
    reward_low: float | None
    reward_high: float | None
    weighted_elo: EloDifference
    """Elo difference over all questions, with strong preferences counted three times."""
    weighted_elo_differing: EloDifference
    """The same over questions with different replies."""
    preferences: PreferenceSummary
    """Shares, win rates and unweighted Elo, over all questions and over differing ones."""


PROTOCOL = (
    "in the manner of WildVision-Bench: its five labels and weights, but this project's prompt and "
    "no baseline replies; not comparable with its leaderboard"
)


def judge_record(
    verdicts: Sequence[JudgeVerdict], comparison: SystemComparison, model: str
) -> PreferenceRecord:
    """Return the verdicts as preferences for the first system; a question has the mean reward."""
    return PreferenceRecord(
        source=PreferenceSource.JUDGE,
        comparison=comparison,
        opinions=tuple(
            Opinion(
                task_id=task,
                rater=model,
                aspect=OVERALL,
                preference=float(np.mean(values)) if values else None,
            )
            for task, values in _rewards(verdicts, comparison.first.name).items()
        ),
    )


def summarise(verdicts: Sequence[JudgeVerdict], record: PreferenceRecord) -> list[JudgeReport]:
    """Summarise all verdicts per language.

    Questions without a readable verdict are excluded from the scores, and counted.

    Args:
        verdicts: Verdicts on any number of questions, in both orders.
        record: The record of `judge_record`.

    Raises:
        ConfigError: If no verdict is readable.
    """
    if not any(opinion.preference is not None for opinion in record.opinions):
        raise ConfigError("no verdict of the judge is readable; see verdicts.jsonl")
    return [_summarise(verdicts, record, summary) for summary in summarise_record(record)]


def _summarise(
    verdicts: Sequence[JudgeVerdict], record: PreferenceRecord, summary: PreferenceSummary
) -> JudgeReport:
    questions = {
        question.task_id: question
        for question in record.comparison.questions
        if question.language == summary.language
    }
    own = [verdict for verdict in verdicts if verdict.task_id in questions]
    rewards = _rewards(own, record.comparison.first.name)
    decided = [v for v in own if v.label not in ("", "A=B")]
    net = summary.populations[0].net
    identical = [question for question in questions.values() if question.is_identical]
    return JudgeReport(
        protocol=PROTOCOL,
        language=summary.language,
        num_unreadable=sum(not verdict.label for verdict in own),
        num_truncated=sum(verdict.is_truncated for verdict in own),
        num_inconsistent=sum(
            len(values) == _NUM_ORDERS and values[0] * values[1] < 0 for values in rewards.values()
        ),
        first_position=100 * sum(v.label[0] == "A" for v in decided) / max(1, len(decided)),
        reward=100 * net.value,
        reward_low=None if net.low is None else 100 * net.low,
        reward_high=None if net.high is None else 100 * net.high,
        weighted_elo=_weighted_elo(
            rewards | {question.task_id: [0.0] * _NUM_ORDERS for question in identical}, questions
        ),
        weighted_elo_differing=_weighted_elo(rewards, questions),
        preferences=summary,
    )


def _rewards(verdicts: Sequence[JudgeVerdict], system: str) -> dict[str, list[float]]:
    """Return the readable rewards of a system by question."""
    found: dict[str, list[float]] = {}
    for verdict in verdicts:
        values = found.setdefault(verdict.task_id, [])
        if (reward := verdict.reward(system)) is not None:
            values.append(reward)
    return found


def _weighted_elo(
    rewards: dict[str, list[float]], questions: dict[str, ComparedQuestion]
) -> EloDifference:
    """Return 400 log10(wins / losses) with an interval by linearisation, clustered by image."""
    readable = {task: values for task, values in rewards.items() if values}
    wins, losses = (
        np.array([sum(_weight(sign * r) for r in values) for values in readable.values()])
        for sign in (1, -1)
    )
    if wins.sum() == 0 or losses.sum() == 0:
        return EloDifference(value=None, low=None, high=None)
    log_odds = Linearisation(
        value=math.log10(wins.sum() / losses.sum()),
        influences_J=(wins / wins.sum() - losses / losses.sum()) / math.log(10),
        clusters_J=np.array([image_of(questions[task]) for task in readable]),
        raters_J=np.full(len(readable), NO_RATER),
        num_items=len(readable),
    )
    images = len(np.unique(log_odds.clusters_J))
    bounds = log_odds.estimate(images).bounds()
    return EloDifference(
        value=ELO_SCALE * log_odds.value,
        low=None if bounds is None else ELO_SCALE * bounds[0],
        high=None if bounds is None else ELO_SCALE * bounds[1],
    )


def _weight(reward: float) -> float:
    """Return the weighted wins of the system in one game; a tie is half a win for either."""
    if reward == 0:
        return 0.5
    return 0.0 if reward < 0 else _STRONG_WEIGHT if reward == 1 else 1.0
