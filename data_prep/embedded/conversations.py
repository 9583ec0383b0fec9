"""Training conversations: several questions about one image, or about words in its place.

Each is planned once (`Question`s) and worded in every language under one parallel id.
"""

import dataclasses

import numpy as np

from core.rng import named_rng
from data_prep.embedded.concepts import Lexicon
from data_prep.embedded.questions import (
    NUM_CHOICES,
    AnswerKind,
    Asker,
    Question,
    is_choice,
    pick,
    word_answer,
    word_question,
)
from data_prep.embedded.scenes import CELL_PLACES, Scene, SceneMaker, draw_pattern
from data_prep.embedded.wordings import QuestionKind

IMAGE_MARK = "<image>"

_CHAT_SINGLE_SHARE = 0.45
_CHAT_KEYWORDS_SHARE = 0.15
_NUM_KEYWORDS = 3
_SECOND_YES_NO_SHARE = 0.5
_CATEGORY_SHARE = 0.5
_IS_CATEGORY_SHARE = 0.4
_CHOICE_SHARE = 0.6
_COUNT_SHARE = 0.1
_REVEALING_LAST_SHARE = 0.5

Record = dict[str, list[dict[str, str]]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """A text-only conversation: what is described, how, and the questions about it."""

    concept: int | None
    """The thing described by its name or keywords; None for a scene."""
    scene: Scene | None
    by_keywords: bool
    questions: tuple[Question, ...]


def single_questions(asker: Asker, concept: int, rng: np.random.Generator) -> tuple[Question, ...]:
    """Three to six questions about an image of one thing."""
    shown = (concept,)
    first = _heads(rng)
    questions = [
        asker.ask(QuestionKind.NAME, (AnswerKind.NAME, concept), rng),
        asker.is_shown(shown, rng, answer_yes=first),
    ]
    if rng.random() < _SECOND_YES_NO_SHARE:
        questions.append(asker.is_shown(shown, rng, answer_yes=not first))
    if rng.random() < _CATEGORY_SHARE:
        questions.append(asker.category(concept, rng))
    if rng.random() < _IS_CATEGORY_SHARE:
        questions.append(asker.is_category(concept, rng, answer_yes=_heads(rng)))
    if rng.random() < _CHOICE_SHARE:
        place = int(rng.integers(NUM_CHOICES))
        kind = QuestionKind.CHOICE
        questions.append(asker.choice(kind, shown, rng, right=concept, position=place))
    if rng.random() < _COUNT_SHARE:
        questions.append(asker.ask(QuestionKind.COUNT_THINGS, (AnswerKind.NUMBER, 1), rng))
    return _ordered(questions, rng)


def scene_questions(asker: Asker, scene: Scene, rng: np.random.Generator) -> tuple[Question, ...]:
    """Questions about a scene: how many, where, beside what, which, whether."""
    shown = tuple(sorted(scene.counts))
    counted, right = pick(shown, rng), pick(shown, rng)
    first = _heads(rng)
    position = int(rng.integers(NUM_CHOICES))
    number = (AnswerKind.NUMBER, scene.counts[counted])
    questions = [
        asker.ask(QuestionKind.COUNT_THINGS, (AnswerKind.NUMBER, len(scene.things)), rng),
        asker.ask(QuestionKind.COUNT_NAME, number, rng, concepts=(counted,)),
        asker.is_shown(shown, rng, answer_yes=first),
        _position(asker, scene, rng),
    ]
    if neighbours := scene.neighbours():
        relation, named, there = pick(tuple(neighbours), rng)
        answer = (AnswerKind.NAME, there)
        kind = QuestionKind.NEIGHBOUR
        questions.append(asker.ask(kind, answer, rng, concepts=(named,), place=relation))
    extras = [
        asker.is_shown(shown, rng, answer_yes=not first),
        _position(asker, scene, rng),
        asker.choice(QuestionKind.SCENE_CHOICE, shown, rng, right=right, position=position),
    ]
    extras = [extra for extra in extras if not _is_repeated(extra, questions)]
    questions.append(pick(tuple(extras), rng))
    return tuple(questions[int(i)] for i in rng.permutation(len(questions)))


def make_chat(asker: Asker, maker: SceneMaker, rng: np.random.Generator) -> Chat:
    """A text-only conversation about one thing (by name or keywords) or about a listed scene."""
    draw = rng.random()
    if draw < _CHAT_SINGLE_SHARE + _CHAT_KEYWORDS_SHARE:
        concept = int(rng.integers(len(asker.catalogue)))
        return Chat(
            concept=concept,
            scene=None,
            by_keywords=draw >= _CHAT_SINGLE_SHARE,
            questions=single_questions(asker, concept, rng),
        )
    scene = maker.make(draw_pattern(rng), rng)
    questions = scene_questions(asker, scene, rng)
    return Chat(concept=None, scene=scene, by_keywords=False, questions=questions)


def word_turns(opening: str, questions: tuple[Question, ...], lexicon: Lexicon) -> Record:
    """A conversation in one language; the opening stands before the first question."""
    messages = []
    for number, question in enumerate(questions):
        text = word_question(question, lexicon)
        content = f"{opening}\n{text}" if number == 0 else text
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": word_answer(question, lexicon)})
    return {"messages": messages}


def word_caption(concepts: tuple[int, ...], lexicon: Lexicon) -> Record:
    """The names of what is shown, in reading order."""
    caption = ", ".join(lexicon.names[concept] for concept in concepts)
    return {
        "messages": [
            {"role": "user", "content": IMAGE_MARK},
            {"role": "assistant", "content": caption},
        ]
    }


def describe(chat: Chat, lexicon: Lexicon, seed: int, number: int) -> str:
    """What stands in the image's place, in one language."""
    if chat.scene is not None:
        labels = [lexicon.language.places[place][1] for place in CELL_PLACES]
        return ", ".join(
            f"{label}: {lexicon.names[concept]}"
            for label, concept in zip(labels, chat.scene.cells, strict=True)
            if concept is not None
        )
    concept = int(chat.concept or 0)
    keywords = lexicon.keywords[concept]
    if chat.by_keywords and len(keywords) >= _NUM_KEYWORDS:
        rng = named_rng(seed, "keywords", lexicon.language.code, number)
        order = rng.permutation(len(keywords))[:_NUM_KEYWORDS]
        return ", ".join(keywords[int(i)] for i in order)
    return lexicon.names[concept]


def chat_records(
    chat: Chat, lexicons: tuple[Lexicon, ...], seed: int, number: int
) -> dict[str, Record]:
    """The conversation in every language, as it lies in a shard."""
    return {
        lexicon.language.code: word_turns(
            describe(chat, lexicon, seed, number), chat.questions, lexicon
        )
        for lexicon in lexicons
    }


def _position(asker: Asker, scene: Scene, rng: np.random.Generator) -> Question:
    place, concept = pick(tuple(scene.places()), rng)
    return asker.ask(QuestionKind.POSITION, (AnswerKind.NAME, concept), rng, place=place)


def _is_repeated(question: Question, others: list[Question]) -> bool:
    asked = (question.kind, question.concepts, question.place)
    return any((other.kind, other.concepts, other.place) == asked for other in others)


def _heads(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def _ordered(questions: list[Question], rng: np.random.Generator) -> tuple[Question, ...]:
    """Shuffled; half the time what gives the name away comes last: the image is needed."""
    shuffled = [questions[int(i)] for i in rng.permutation(len(questions))]
    if rng.random() < _REVEALING_LAST_SHARE:
        shuffled.sort(key=_reveals)
    return tuple(shuffled)


def _reveals(question: Question) -> int:
    if question.kind is QuestionKind.NAME:
        return 3
    if is_choice(question.kind):
        return 2
    return int(question.kind is QuestionKind.IS_SHOWN and question.answer == 1)
