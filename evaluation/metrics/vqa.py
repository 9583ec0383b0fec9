"""VQA accuracy: the official score, and a language-aware one beside it.

Official (VQAv2): for each of the ten human answers, min(1, matches among the OTHER nine / 3);
the mean of the ten. With k humans on the predicted answer: 0, .3, .6, .9, 1 for k = 0, 1, 2, 3, 4+.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import torch
from torchmetrics import Metric

from core.errors import DataError
from evaluation.answers import english
from evaluation.answers.registry import AnswerRule, rule_for

_AGREEMENT = 3
_PERCENT = 100.0


class VqaAnswerType(StrEnum):
    """The three kinds that VQA breaks its accuracy down by."""

    YES_NO = "yes/no"
    NUMBER = "number"
    OTHER = "other"


def leave_one_out(matches: Sequence[bool]) -> float:
    """Soft accuracy from which of the human answers the prediction equals.

    The others are told apart by position. The original compares dictionaries, which makes equal
    answers vanish together wherever a data set lacks answer ids.

    DEVIATION: with a single answer nobody is left to agree with and the original always gives 0;
    here it is exact match.

    Raises:
        DataError: no answers.
    """
    if not matches:
        raise DataError("an item has no answers; expected ten (or one); prepare the data again")
    if len(matches) == 1:
        return float(matches[0])
    total = sum(matches)
    credits_of_others = [min(1.0, (total - match) / _AGREEMENT) for match in matches]
    return sum(credits_of_others) / len(matches)


def official_score(prediction: str, answers: Sequence[str]) -> float:
    """The score (0..1) of the official program, English rules whatever the language.

    Punctuation and words are normalised only if the answers differ: ten times "Bai" leaves a
    prediction "bai" wrong.
    """
    prediction = english.join_lines(prediction)
    answers = [english.join_lines(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction = english.normalise(prediction)
        answers = [english.normalise(answer) for answer in answers]
    return leave_one_out([answer == prediction for answer in answers])


def aware_score(prediction: str, answers: Sequence[str], rule: AnswerRule) -> float:
    """The same formula with a language's own rule, which is always applied."""
    is_match = {answer: rule.matches(prediction, answer) for answer in dict.fromkeys(answers)}
    return leave_one_out([is_match[answer] for answer in answers])


class VQAAccuracy(Metric):
    """Mean VQA score in percent, in all and per answer type, over any number of ranks.

    States are sums, so ranks merge by adding. Types that no item had are left out of `compute`.
    """

    full_state_update = False
    score_sums: torch.Tensor
    counts: torch.Tensor

    def __init__(
        self, *, language: str = "en", reference: bool = True, relaxed: bool = True, **kwargs: Any
    ) -> None:
        """Choose the score.

        Args:
            language: Whose rule the language-aware score applies; the official score has none.
            reference: The official score (default) or the language-aware one.
            relaxed: The language-aware score also matches definite and bare forms.
            **kwargs: For `torchmetrics.Metric`.
        """
        super().__init__(**kwargs)
        self.rule = None if reference else rule_for(language, relaxed=relaxed)
        zeros = torch.zeros(len(VqaAnswerType), dtype=torch.float64)
        self.add_state("score_sums", default=zeros.clone(), dist_reduce_fx="sum")
        self.add_state("counts", default=zeros.clone(), dist_reduce_fx="sum")

    def update(
        self,
        predictions: Sequence[str],
        answers: Sequence[Sequence[str]],
        answer_types: Sequence[str],
    ) -> None:
        """Add items.

        Raises:
            DataError: an answer type that VQA does not know.
        """
        for prediction, humans, kind in zip(predictions, answers, answer_types, strict=True):
            if kind not in list(VqaAnswerType):
                known = ", ".join(VqaAnswerType)
                raise DataError(f"answer type '{kind}' is not one of VQA's: {known}")
            at = list(VqaAnswerType).index(VqaAnswerType(kind))
            self.score_sums[at] += self.score(prediction, humans)
            self.counts[at] += 1

    def score(self, prediction: str, answers: Sequence[str]) -> float:
        """Score of one item, 0..1."""
        if self.rule is None:
            return official_score(prediction, answers)
        return aware_score(prediction, answers, self.rule)

    def compute(self) -> dict[str, torch.Tensor]:
        """Percentages: "accuracy" over all items, and one per answer type.

        Raises:
            DataError: no item was added.
        """
        if not self.counts.sum():
            raise DataError("VQA accuracy of no items; call update with at least one")
        result = {"accuracy": _PERCENT * self.score_sums.sum() / self.counts.sum()}
        for at, kind in enumerate(VqaAnswerType):
            if self.counts[at]:
                result[kind.value] = _PERCENT * self.score_sums[at] / self.counts[at]
        return result
