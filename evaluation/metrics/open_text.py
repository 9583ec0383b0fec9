"""Scores of free-text replies: direct answers (A-OKVQA), chrF and ANLS."""

import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from core.errors import DataError

_AGREEMENT_NEEDED = 3
_ANLS_THRESHOLD = 0.5


def direct_score(
    reply: str, answers: Sequence[str], *, is_same: Callable[[str, str], bool] = operator.eq
) -> float:
    """Return A-OKVQA's score of direct answers, min(1, number of answers equal to the reply / 3).

    As in evaluation/eval_predictions.py of allenai/aokvqa (0438d33), nothing is normalised or
    stripped; answerers strip white space when they decode a reply. Unlike VQA accuracy, no answer
    is left out.

    Args:
        reply: The reply of the model.
        answers: The human answers.
        is_same: Compares the reply with an answer; exact equality by default.

    Raises:
        DataError: If there are no answers.
    """
    if not answers:
        raise DataError("a direct answer needs at least one reference answer", "no answers")
    return min(1.0, sum(is_same(reply, answer) for answer in answers) / _AGREEMENT_NEEDED)


def chrf(reply: str, references: Sequence[str]) -> float:
    """Return sacrebleu's chrF2 (character 6-grams, beta 2) of the best reference, in 0..1."""
    best: float = max(
        _load_chrf().sentence_score(reply, [reference]).score for reference in references
    )
    return best / 100


def anls(reply: str, references: Sequence[str]) -> float:
    """Return ANLS, the normalised Levenshtein similarity of the best reference (Biten et al. 2019).

    The similarity is 1 - distance / length of the longer text, or 0 below one half. Case and outer
    spaces are ignored.
    """
    text = reply.strip().lower()
    return max(_similarity(text, reference.strip().lower()) for reference in references)


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    if longest == 0:
        return 1.0
    share = _levenshtein(one, other) / longest
    return 1 - share if share < _ANLS_THRESHOLD else 0.0


def _levenshtein(one: str, other: str) -> int:
    """Return the edit distance of two texts.

    `torchmetrics.functional.text.edit_distance` is 5 to 15 times slower on texts of up to 40
    characters, and its beam search overestimates some distances.
    """
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@cache
def _load_chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF  # most benchmarks do not need it

    return CHRF()
