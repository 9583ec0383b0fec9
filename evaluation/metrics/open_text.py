"""Scores of free answers: A-OKVQA's direct answers, chrF, ANLS."""

import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from core.errors import DataError

_ENOUGH = 3
_ANLS_THRESHOLD = 0.5


def direct_score(
    reply: str, answers: Sequence[str], *, is_same: Callable[[str, str], bool] = operator.eq
) -> float:
    """A-OKVQA's: min(1, answers that are the reply, to the letter / 3); nothing is normalised.

    allenai/aokvqa, evaluation/eval_predictions.py. Unlike VQA accuracy no answer is left out.
    """
    if not answers:
        raise DataError("a direct answer needs at least one reference", "no answers")
    return min(1.0, sum(is_same(reply, answer) for answer in answers) / _ENOUGH)


def chrf(reply: str, references: Sequence[str]) -> float:
    """chrF2 of the best reference, 0..1 (sacrebleu's: character 6-grams, beta 2)."""
    best: float = max(_metric().sentence_score(reply, [one]).score for one in references)
    return best / 100


def anls(reply: str, references: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of the best reference (Biten et al. 2019, eq. 1).

    1 - distance / longer length, 0 below a half; case and outer spaces don't count.
    """
    return max(_similarity(reply.strip().lower(), one.strip().lower()) for one in references)


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    if longest == 0:
        return 1.0
    share = _distance(one, other) / longest
    return 1 - share if share < _ANLS_THRESHOLD else 0.0


def _distance(one: str, other: str) -> int:
    """Levenshtein's, row by row."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@cache
def _metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF  # most benchmarks need none of it

    return CHRF()
