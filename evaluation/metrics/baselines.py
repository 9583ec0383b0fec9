"""Baselines without understanding: the best constant reply per group, and chance.

The constant reply is chosen on the benchmark itself, with knowledge of the answers. This makes the
baseline strong on purpose: an accuracy below it shows nothing. The third baseline, the same model
with a blank image, is part of the evaluation run.
"""

import dataclasses
import string
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.metrics.scorer import Scorer

GroupKey = tuple[str, str, str]
"""Benchmark, answer type and language."""

_MAX_CANDIDATES = 20


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
    scores_aware: np.ndarray
    """Language-aware score per item; nan if the benchmark has none."""


def group_key(item: BenchmarkItem) -> GroupKey:
    """Return the group of questions that share one constant reply."""
    return (item.benchmark, item.answer_type, item.language)


def majority_baseline(items: Sequence[BenchmarkItem], scorer: Scorer) -> MajorityBaseline:
    """Find the best constant reply of every group among its most frequent answers.

    The candidates are the 20 most frequent answers, and the letters for multiple choice. They are
    scored like replies of a model. Ties are broken by frequency, then by code points.
    """
    groups: dict[GroupKey, list[int]] = defaultdict(list)
    for at, item in enumerate(items):
        groups[group_key(item)].append(at)
    scores, aware = np.zeros(len(items)), np.full(len(items), np.nan)
    answers = {}
    for key, members in groups.items():
        group = [items[at] for at in members]
        best, best_scores = _find_best_constant(group, scorer)
        scores[members] = best_scores
        replies = [scorer.score(item, best).score_aware for item in group]
        aware[members] = [np.nan if value is None else value for value in replies]
        answers[key] = MajorityAnswer(
            answer=best, score=float(best_scores.mean()), num_items=len(group)
        )
    return MajorityBaseline(answers=answers, scores=scores, scores_aware=aware)


def _find_best_constant(group: Sequence[BenchmarkItem], scorer: Scorer) -> tuple[str, np.ndarray]:
    votes = Counter(answer for item in group for answer in item.answers)
    ranked = sorted(votes, key=lambda answer: (-votes[answer], answer))[:_MAX_CANDIDATES]
    num_choices = max(len(item.choices) for item in group)
    # Without reference answers the only candidate is the empty reply, which scores 0.
    candidates = [*ranked, *string.ascii_uppercase[:num_choices]] or [""]
    scores = {
        reply: np.array([scorer.score(item, reply).score for item in group]) for reply in candidates
    }
    best = max(candidates, key=lambda reply: float(scores[reply].mean()))
    return best, scores[best]


def chance_score(item: BenchmarkItem) -> float | None:
    """Return the expected score of a random guess, or None for open questions."""
    if item.benchmark is Benchmark.MULTIPLE_CHOICE:
        return 1.0 / len(item.choices)
    return 0.5 if item.benchmark is Benchmark.CAPTION_QA else None
