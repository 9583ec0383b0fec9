"""What no understanding is worth: the best constant reply per group, and chance.

Both are computed on the benchmark itself, so the constant reply knows the answers: generous on
purpose, an accuracy that does not clear it shows nothing. The third baseline, the same model
without its image, is the runner's.
"""

import dataclasses
import string
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.metrics.scorer import Scorer

GroupKey = tuple[str, str, str]
"""Benchmark, answer type, language."""

_MAX_CANDIDATES = 20


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MajorityAnswer:
    """The constant reply that scores best in a group."""

    answer: str
    score: float
    """Mean official score, 0..1."""
    num_items: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MajorityBaseline:
    """The best constant reply of every group, and what it scores on every item."""

    answers: dict[GroupKey, MajorityAnswer]
    scores: np.ndarray
    """Official score per item, in the order of the items."""
    scores_aware: np.ndarray
    """Language-aware score per item; nan where the benchmark has none."""


def group_key(item: BenchmarkItem) -> GroupKey:
    """The group within which one constant reply is chosen."""
    return (item.benchmark, item.answer_type, item.language)


def majority_baseline(items: Sequence[BenchmarkItem], scorer: Scorer) -> MajorityBaseline:
    """Find the best constant reply per group among its most frequent answers.

    Candidates are the 20 strings with most votes, and the letters for multiple choice; each is
    scored as a model's reply would be. Ties go to the more frequent, then the first in the order
    of code points.
    """
    groups: dict[GroupKey, list[int]] = defaultdict(list)
    for at, item in enumerate(items):
        groups[group_key(item)].append(at)
    scores, aware = np.zeros(len(items)), np.full(len(items), np.nan)
    answers = {}
    for key, members in groups.items():
        group = [items[at] for at in members]
        best, best_scores = _best_constant(group, scorer)
        scores[members] = best_scores
        replies = [scorer.score(item, best).score_aware for item in group]
        aware[members] = [np.nan if value is None else value for value in replies]
        answers[key] = MajorityAnswer(
            answer=best, score=float(best_scores.mean()), num_items=len(group)
        )
    return MajorityBaseline(answers=answers, scores=scores, scores_aware=aware)


def _best_constant(group: Sequence[BenchmarkItem], scorer: Scorer) -> tuple[str, np.ndarray]:
    votes = Counter(answer for item in group for answer in item.answers)
    ranked = sorted(votes, key=lambda answer: (-votes[answer], answer))[:_MAX_CANDIDATES]
    num_choices = max(len(item.choices) for item in group)
    # Without reference answers there is only the empty reply, which is none.
    candidates = [*ranked, *string.ascii_uppercase[:num_choices]] or [""]
    table = {
        reply: np.array([scorer.score(item, reply).score for item in group]) for reply in candidates
    }
    best = max(candidates, key=lambda reply: float(table[reply].mean()))
    return best, table[best]


def chance_score(item: BenchmarkItem) -> float | None:
    """Expected score of a blind guess among the offered answers; None for open questions."""
    if item.benchmark is Benchmark.MULTIPLE_CHOICE:
        return 1.0 / len(item.choices)
    return 0.5 if item.benchmark is Benchmark.CAPTION_QA else None
