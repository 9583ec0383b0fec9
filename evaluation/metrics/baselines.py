"""Baselines without understanding: the best constant reply per group, and chance.

The constant reply is chosen on the benchmark itself, with knowledge of the answers. This makes the
baseline strong on purpose: a lower accuracy is no evidence of an ability. The third baseline, the
same model with a blank image, is part of the evaluation run.
"""

import dataclasses
import string
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from evaluation.answers.languages import english
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.metrics.scorer import ItemScore, Scorer

GroupKey = tuple[str, str, str, str]
"""Name of the benchmark, its kind, answer type and language."""

_MAX_CANDIDATES = 20
_CREDIT_OF_ONE_ANSWER = 0.3
"""Official score of a reply that one of ten annotators gave."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MajorityAnswer:
    """Best constant reply of a group."""

    answer: str
    score: float
    """Mean official score in 0..1."""
    num_items: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MajorityBaseline:
    """Best constant reply of every group, and its scores on every item."""

    answers: dict[GroupKey, MajorityAnswer]
    scores: np.ndarray
    """Official score per item, in the order of the items."""
    scores_lmms: np.ndarray
    """Score of lmms-eval per item; nan if the benchmark has none."""
    scores_aware: np.ndarray
    """Language-aware score per item; nan if the benchmark has none."""


def group_key(item: BenchmarkItem) -> GroupKey:
    """Return the group of questions that share one constant reply."""
    return (item.dataset, item.benchmark, item.answer_type, item.language)


def majority_baseline(items: Sequence[BenchmarkItem], scorer: Scorer) -> MajorityBaseline:
    """Find the best constant reply of every group among its most rewarding answers.

    The candidates are the 20 answers with the largest total credit, and the letters for multiple
    choice. They are scored like replies of a model, and each score has its own best candidate. The
    maximum over candidates on the same items is generous by design. Ties are broken by credit, then
    by code points.
    """
    groups: dict[GroupKey, list[int]] = defaultdict(list)
    for at, item in enumerate(items):
        groups[group_key(item)].append(at)
    found = {name: np.full(len(items), np.nan) for name in ("score", "score_lmms", "score_aware")}
    answers = {}
    for key, members in groups.items():
        group = [items[at] for at in members]
        scores = {
            reply: [scorer.score(item, reply) for item in group]
            for reply in _constant_candidates(group)
        }
        for name, column in found.items():
            best = max(scores, key=lambda reply: _mean_of(scores[reply], name))
            values = [getattr(score, name) for score in scores[best]]
            column[members] = [np.nan if value is None else value for value in values]
            if name == "score":
                answers[key] = MajorityAnswer(
                    answer=best, score=_mean_of(scores[best], name), num_items=len(group)
                )
    return MajorityBaseline(
        answers=answers,
        scores=found["score"],
        scores_lmms=found["score_lmms"],
        scores_aware=found["score_aware"],
    )


def _mean_of(scores: Sequence[ItemScore], name: str) -> float:
    values = [getattr(score, name) for score in scores]
    return -1.0 if None in values else float(np.mean(values))


def _constant_candidates(group: Sequence[BenchmarkItem]) -> list[str]:
    """Return the answers that earn most over a group, in their most frequent spelling.

    The total credit counts, not the number of votes: an answer that four of ten annotators give is
    fully right, so ten votes for one question earn less than four votes for two questions.
    """
    credit: dict[str, float] = defaultdict(float)
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for item in group:
        for answer in item.answers:
            spellings[english.normalise(answer)][answer] += 1
        for form, votes in Counter(map(english.normalise, item.answers)).items():
            credit[form] += min(1.0, votes * _CREDIT_OF_ONE_ANSWER)
    ranked = sorted(credit, key=lambda form: (-credit[form], form))[:_MAX_CANDIDATES]
    usual = [min(spellings[form].items(), key=lambda pair: (-pair[1], pair[0]))[0]
             for form in ranked]  # fmt: skip
    num_choices = max(len(item.choices) for item in group)
    # Without reference answers the only candidate is the empty reply, which scores 0.
    return [*dict.fromkeys([*usual, *string.ascii_uppercase[:num_choices]])] or [""]


def chance_score(item: BenchmarkItem) -> float | None:
    """Return the expected score of a random guess, or None for open questions."""
    if item.benchmark is Benchmark.MULTIPLE_CHOICE:
        return 1.0 / len(item.choices)
    return 0.5 if item.benchmark is Benchmark.CAPTION_QA else None
