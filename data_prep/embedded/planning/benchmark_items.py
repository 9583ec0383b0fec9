"""Items of the embedded benchmark: a planned question worded and answered in every language."""

import dataclasses
from typing import Any

from data_prep.embedded.planning.questions import (
    AnswerKind,
    Question,
    is_choice,
    word_answer,
    word_question,
)
from data_prep.embedded.votes import Voter, equal_answers
from data_prep.embedded.wordings import QuestionKind

_ANSWER_TYPES = {
    AnswerKind.NAME: "other",
    AnswerKind.CATEGORY: "other",
    AnswerKind.NUMBER: "number",
    AnswerKind.YES_NO: "yes/no",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkQuestion:
    """A question of the benchmark about an image."""

    image: str
    benchmark: str
    question: Question


def word_item(number: int, asked: BenchmarkQuestion, voters: tuple[Voter, ...]) -> dict[str, Any]:
    """Return a question as an item of the shard, in every language."""
    question = asked.question
    lexicons = [voter.lexicon for voter in voters]
    item: dict[str, Any] = {
        "question_id": f"q{number:05d}",
        "benchmark": asked.benchmark,
        "answer_type": _ANSWER_TYPES[question.answer_kind],
        "question_type": _question_type(asked),
        "question": {lex.language.code: word_question(question, lex) for lex in lexicons},
    }
    if is_choice(question.kind):
        item["answer_type"] = "choice"
        item["choices"] = {
            lex.language.code: [lex.names[concept] for concept in question.concepts]
            for lex in lexicons
        }
        item["correct_choice"] = question.concepts.index(int(question.answer))
        return item
    item["answers"] = {v.lexicon.language.code: _accepted_answers(asked, v) for v in voters}
    return item


def _question_type(asked: BenchmarkQuestion) -> str:
    """Return the type by which the report separates questions: the kind, or the caption check.

    Every wording of the caption check that training does not have is a type of its own, because a
    model may misunderstand one wording and not another.
    """
    question = asked.question
    if question.kind is QuestionKind.CAPTION_CHECK_UNSEEN:
        return f"{question.kind.value}_{question.wording + 1}"
    return "caption_check" if asked.benchmark == "capqa" else question.kind.value


def _accepted_answers(asked: BenchmarkQuestion, voter: Voter) -> list[str]:
    right = word_answer(asked.question, voter.lexicon)
    if asked.benchmark == "capqa":
        return [right]
    if asked.question.answer_kind is AnswerKind.NAME:
        return voter.name_answers(int(asked.question.answer))
    return equal_answers(right)
