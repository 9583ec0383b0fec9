"""VQA scores of one reply: the official one, that of lmms-eval, and a language-aware one.

The official VQAv2 score averages min(1, matches among the OTHER nine / 3) over the ten human
answers. If k humans gave the predicted answer, it is 0, .3, .6, .9, 1 for k = 0, 1, 2, 3, 4+.
"""

from collections.abc import Sequence

from core.errors import DataError
from evaluation.answers.languages import english
from evaluation.answers.rule import AnswerRule

_AGREEMENT = 3


def leave_one_out(matches: Sequence[bool]) -> float:
    """Return the soft accuracy of a prediction.

    The human answers are distinguished by their position. The original compares dictionaries, so
    equal answers disappear together in data sets without answer ids.

    DEVIATION: With a single answer there are no others to agree with, and the original always
    returns 0. Here the score is an exact match.

    Args:
        matches: Whether the prediction equals each of the human answers.

    Raises:
        DataError: If there are no answers.
    """
    if not matches:
        raise DataError("an item has no answers; expected ten (or one); prepare the data again")
    if len(matches) == 1:
        return float(matches[0])
    total = sum(matches)
    credits_of_others = [min(1.0, (total - match) / _AGREEMENT) for match in matches]
    return sum(credits_of_others) / len(matches)


def official_score(prediction: str, answers: Sequence[str]) -> float:
    """Return the score (0..1) of the official program, which applies English rules to any language.

    Punctuation and words are normalised only if the answers differ, so the prediction "bai" is
    wrong if all ten answers are "Bai".
    """
    prediction = english.join_lines(prediction)
    answers = [english.join_lines(answer) for answer in answers]
    if not is_unanimous(answers):
        prediction = english.normalise(prediction)
        answers = [english.normalise(answer) for answer in answers]
    return leave_one_out([answer == prediction for answer in answers])


def lmms_score(prediction: str, answers: Sequence[str]) -> float:
    """Return the score (0..1) of lmms-eval, which applies English rules to every reply and answer.

    Unlike the official program it normalises unanimous answers too, so "Bai." is right if all ten
    answers are "bai". Source: `vqav2_process_results` of EvolvingLMMs-Lab/lmms-eval at 75571cf,
    which the paper uses; its answers are distinguished by their ids, here by their position.
    """
    reply = english.normalise_lmms(prediction)
    return leave_one_out([english.normalise_lmms(answer) == reply for answer in answers])


def is_unanimous(answers: Sequence[str]) -> bool:
    """Return whether ten (or all) answers are one string, which the official score compares raw."""
    return len({english.join_lines(answer) for answer in answers}) == 1


def aware_score(prediction: str, answers: Sequence[str], rule: AnswerRule) -> float:
    """Return the score by the same formula, always normalised by the language's own rule."""
    is_match = {answer: rule.matches(prediction, answer) for answer in dict.fromkeys(answers)}
    return leave_one_out([is_match[answer] for answer in answers])
