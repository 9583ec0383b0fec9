"""Training conversations: several questions about an image, or about a text that describes one.

Each is planned once as language-independent `Question`s and worded in every language.
"""

import dataclasses
from typing import TypeVar

import numpy as np

from core.chat.tokens import IMAGE_MARK
from core.rng import named_rng
from data_prep.embedded.concepts import Lexicon
from data_prep.embedded.planning.questions import (
    NUM_CHOICES,
    AnswerKind,
    Asker,
    Question,
    is_choice,
    pick,
    word_answer,
    word_question,
)
from data_prep.embedded.planning.scenes import QUADRANTS, Scene, SceneMaker, draw_pattern
from data_prep.embedded.wordings import QuestionKind

_CHAT_SINGLE_SHARE = 0.45
_CHAT_KEYWORDS_SHARE = 0.15
NUM_KEYWORDS = 3
_SECOND_YES_NO_SHARE = 0.5
_CATEGORY_SHARE = 0.5
_IS_CATEGORY_SHARE = 0.4
_CHOICE_SHARE = 0.6
_COUNT_SHARE = 0.1
_REVEALING_LAST_SHARE = 0.5

_LISTING_PATTERNS = ((1, 1), (1, 1, 1), (2, 1), (1, 1, 1, 1), (2, 1, 1), (2, 2), (3, 1))
_NUM_LISTED_PLACES = 3
_NUM_LISTED_NEIGHBOURS = 2

_YES_NO_SCENE_SHARE = 0.4
_YES_NO_KINDS = (
    *(QuestionKind.IS_SHOWN, QuestionKind.IS_SHOWN),
    *(QuestionKind.CAPTION_CHECK, QuestionKind.CAPTION_CHECK),
)

_T = TypeVar("_T")

Conversation = dict[str, list[dict[str, str]]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """A text-only conversation: the described concept or scene, and the questions about it."""

    concept: int | None
    """The concept that is described by its name or keywords; None for a scene."""
    scene: Scene | None
    by_keywords: bool
    questions: tuple[Question, ...]


def single_questions(asker: Asker, concept: int, rng: np.random.Generator) -> tuple[Question, ...]:
    """Draw two to seven questions about an image of a single concept."""
    shown = (concept,)
    first = _toss_coin(rng)
    questions = [
        asker.ask(QuestionKind.NAME, (AnswerKind.NAME, concept), rng),
        asker.is_shown(shown, rng, answer_yes=first),
    ]
    if rng.random() < _SECOND_YES_NO_SHARE:
        questions.append(asker.is_shown(shown, rng, answer_yes=not first))
    if rng.random() < _CATEGORY_SHARE:
        questions.append(asker.category(concept, rng))
    if rng.random() < _IS_CATEGORY_SHARE:
        questions.append(asker.is_category(concept, rng, answer_yes=_toss_coin(rng)))
    if rng.random() < _CHOICE_SHARE:
        place = int(rng.integers(NUM_CHOICES))
        kind = QuestionKind.CHOICE
        questions.append(asker.choice(kind, shown, rng, right=concept, position=place))
    if rng.random() < _COUNT_SHARE:
        questions.append(asker.ask(QuestionKind.COUNT_THINGS, (AnswerKind.NUMBER, 1), rng))
    return _shuffle_questions(questions, rng)


def scene_questions(asker: Asker, scene: Scene, rng: np.random.Generator) -> tuple[Question, ...]:
    """Draw questions about a scene: counts, positions, neighbours, choices and yes/no."""
    shown = tuple(sorted(scene.counts))
    counted, right = pick(shown, rng), pick(shown, rng)
    first = _toss_coin(rng)
    position = int(rng.integers(NUM_CHOICES))
    number = (AnswerKind.NUMBER, scene.counts[counted])
    questions = [
        asker.ask(QuestionKind.COUNT_THINGS, (AnswerKind.NUMBER, len(scene.things)), rng),
        asker.ask(QuestionKind.COUNT_NAME, number, rng, concepts=(counted,)),
        asker.is_shown(shown, rng, answer_yes=first),
        _position_question(asker, scene, rng),
    ]
    if neighbours := scene.neighbours():
        relation, named, there = pick(tuple(neighbours), rng)
        answer = (AnswerKind.NAME, there)
        kind = QuestionKind.NEIGHBOUR
        questions.append(asker.ask(kind, answer, rng, concepts=(named,), place=relation))
    extras = [
        asker.is_shown(shown, rng, answer_yes=not first),
        _position_question(asker, scene, rng),
        asker.choice(QuestionKind.SCENE_CHOICE, shown, rng, right=right, position=position),
    ]
    extras = [extra for extra in extras if not _is_repeated(extra, questions)]
    questions.append(pick(tuple(extras), rng))
    return tuple(questions[int(i)] for i in rng.permutation(len(questions)))


def make_chat(asker: Asker, maker: SceneMaker, rng: np.random.Generator) -> Chat:
    """Draw a text-only conversation about a concept (name or keywords) or a listed scene."""
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


def make_listing(asker: Asker, maker: SceneMaker, rng: np.random.Generator) -> Chat:
    """Draw a text-only conversation about a listing of different things, mostly their places.

    Such questions need a binding of names to places, which a small language model learns from many
    examples only.
    """
    scene = maker.make(pick(_LISTING_PATTERNS, rng), rng)
    shown = tuple(sorted(scene.counts))
    counted, right = pick(shown, rng), pick(shown, rng)
    number = (AnswerKind.NUMBER, scene.counts[counted])
    questions = [
        asker.ask(QuestionKind.POSITION, (AnswerKind.NAME, concept), rng, place=place)
        for place, concept in _draw(scene.places(), _NUM_LISTED_PLACES, rng)
    ]
    questions += [
        asker.ask(
            QuestionKind.NEIGHBOUR, (AnswerKind.NAME, there), rng, concepts=(named,), place=at
        )
        for at, named, there in _draw(scene.neighbours(), _NUM_LISTED_NEIGHBOURS, rng)
    ]
    questions += [
        asker.ask(QuestionKind.COUNT_NAME, number, rng, concepts=(counted,)),
        asker.is_shown(shown, rng, answer_yes=_toss_coin(rng)),
        asker.choice(
            QuestionKind.SCENE_CHOICE, shown, rng, right=right, position=_draw_position(rng)
        ),
    ]
    order = rng.permutation(len(questions))
    questions = [questions[int(i)] for i in order]
    return Chat(concept=None, scene=scene, by_keywords=False, questions=tuple(questions))


def make_yes_no(asker: Asker, maker: SceneMaker, rng: np.random.Generator) -> Chat:
    """Draw a text-only conversation of yes/no questions about a concept or a listed scene.

    The answers are independent of each other, so that none follows from an earlier one.
    """
    scene = maker.make(draw_pattern(rng), rng) if rng.random() < _YES_NO_SCENE_SHARE else None
    concept = None if scene else int(rng.integers(len(asker.catalogue)))
    shown = tuple(sorted(scene.counts)) if scene else (int(concept or 0),)
    questions = [
        asker.is_shown(shown, rng, answer_yes=_toss_coin(rng), kind=kind) for kind in _YES_NO_KINDS
    ]
    if concept is not None:
        questions.append(asker.is_category(concept, rng, answer_yes=_toss_coin(rng)))
    order = rng.permutation(len(questions))
    questions = [questions[int(i)] for i in order]
    return Chat(concept=concept, scene=scene, by_keywords=False, questions=tuple(questions))


def word_turns(opening: str, questions: tuple[Question, ...], lexicon: Lexicon) -> Conversation:
    """Word a conversation in one language; the opening precedes the first question."""
    messages = []
    for number, question in enumerate(questions):
        text = word_question(question, lexicon)
        content = f"{opening}\n{text}" if number == 0 else text
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": word_answer(question, lexicon)})
    return {"messages": messages}


def word_caption(concepts: tuple[int, ...], lexicon: Lexicon) -> Conversation:
    """Return a caption with the names of the shown concepts in reading order."""
    caption = ", ".join(lexicon.names[concept] for concept in concepts)
    return {
        "messages": [
            {"role": "user", "content": IMAGE_MARK},
            {"role": "assistant", "content": caption},
        ]
    }


def describe(chat: Chat, lexicon: Lexicon, seed: int, number: int) -> str:
    """Return the text that replaces the image, in one language."""
    if chat.scene is not None:
        labels = [lexicon.language.places[place][1] for place in QUADRANTS]
        return ", ".join(
            f"{label}: {lexicon.names[concept]}"
            for label, concept in zip(labels, chat.scene.quadrants, strict=True)
            if concept is not None
        )
    concept = int(chat.concept or 0)
    keywords = lexicon.keywords[concept]
    if chat.by_keywords and len(keywords) >= NUM_KEYWORDS:
        rng = named_rng(seed, "keywords", lexicon.language.code, number)
        order = rng.permutation(len(keywords))[:NUM_KEYWORDS]
        return ", ".join(keywords[int(i)] for i in order)
    return lexicon.names[concept]


def chat_records(
    chat: Chat, lexicons: tuple[Lexicon, ...], seed: int, number: int
) -> dict[str, Conversation]:
    """Word the conversation in every language, as stored in a shard."""
    return {
        lexicon.language.code: word_turns(
            describe(chat, lexicon, seed, number), chat.questions, lexicon
        )
        for lexicon in lexicons
    }


def _position_question(asker: Asker, scene: Scene, rng: np.random.Generator) -> Question:
    place, concept = pick(tuple(scene.places()), rng)
    return asker.ask(QuestionKind.POSITION, (AnswerKind.NAME, concept), rng, place=place)


def _is_repeated(question: Question, others: list[Question]) -> bool:
    asked = (question.kind, question.concepts, question.place)
    return any((other.kind, other.concepts, other.place) == asked for other in others)


def _draw(items: list[_T], count: int, rng: np.random.Generator) -> list[_T]:
    return [items[int(i)] for i in rng.permutation(len(items))[:count]]


def _draw_position(rng: np.random.Generator) -> int:
    return int(rng.integers(NUM_CHOICES))


def _toss_coin(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def _shuffle_questions(questions: list[Question], rng: np.random.Generator) -> tuple[Question, ...]:
    """Shuffle the questions; half of the time those that reveal the name come last."""
    shuffled = [questions[int(i)] for i in rng.permutation(len(questions))]
    if rng.random() < _REVEALING_LAST_SHARE:
        shuffled.sort(key=_name_revealed)
    return tuple(shuffled)


def _name_revealed(question: Question) -> int:
    """Return how much a question reveals the name, as a sort key."""
    if question.kind is QuestionKind.NAME:
        return 3
    if is_choice(question.kind):
        return 2
    return int(question.kind is QuestionKind.IS_SHOWN and question.answer == 1)
