"""Questions about training images.

Separate from `conversations`, whose text-only conversations also train the language models: every
thing in an image is asked for by name, and yes and no are balanced within each image.
"""

import dataclasses

import numpy as np

from data_prep.embedded.planning.questions import (
    NUM_CHOICES,
    AnswerKind,
    Asker,
    Question,
    pick,
)
from data_prep.embedded.planning.scenes import QUADRANTS, Scene
from data_prep.embedded.wordings import QuestionKind

_CATEGORY_SHARE = 0.5
_IS_CATEGORY_SHARE = 0.4
_CHOICE_SHARE = 0.65
_ONE_THING_SHARE = 0.08
_NEIGHBOUR_SHARE = 0.7
_FOUR_THINGS_SHARE = 0.62
_NO_COPIES_SHARE = 0.25
_BESIDE_COPIES_SHARE = 0.7
_MANY_COPIES = 3
_MANY_COPIES_SHARE = 0.8


def single_image_questions(
    asker: Asker, concept: int, rng: np.random.Generator
) -> tuple[Question, ...]:
    """Draw questions about an image of a single concept."""
    shown = (concept,)
    questions = [
        asker.ask(QuestionKind.NAME, (AnswerKind.NAME, concept), rng),
        *_yes_no_pair(asker, shown, rng),
        _caption_check(asker, shown, rng),
    ]
    if rng.random() < _CATEGORY_SHARE:
        questions.append(asker.category(concept, rng))
    if rng.random() < _IS_CATEGORY_SHARE:
        questions.append(asker.is_category(concept, rng, answer_yes=bool(rng.integers(2))))
    if rng.random() < _CHOICE_SHARE:
        questions.append(_choice(asker, QuestionKind.CHOICE, shown, concept, rng))
    if rng.random() < _ONE_THING_SHARE:
        questions.append(asker.ask(QuestionKind.COUNT_THINGS, (AnswerKind.NUMBER, 1), rng))
    return _shuffled(questions, rng)


def scene_image_questions(
    asker: Asker, scene: Scene, rng: np.random.Generator
) -> tuple[Question, ...]:
    """Draw questions about a scene; every different thing is the answer to one of them."""
    shown = tuple(sorted(scene.counts))
    questions = [_where(asker, scene, concept, rng) for concept in shown]
    questions += [*_yes_no_pair(asker, shown, rng), _caption_check(asker, shown, rng)]
    if len(scene.things) < NUM_CHOICES or rng.random() < _FOUR_THINGS_SHARE:
        number = (AnswerKind.NUMBER, len(scene.things))
        questions.append(asker.ask(QuestionKind.COUNT_THINGS, number, rng))
    questions += _count_questions(asker, scene, rng)
    neighbours = tuple(scene.neighbours())
    if neighbours and rng.random() < _NEIGHBOUR_SHARE:
        relation, named, there = pick(neighbours, rng)
        answer, kind = (AnswerKind.NAME, there), QuestionKind.NEIGHBOUR
        questions.append(asker.ask(kind, answer, rng, concepts=(named,), place=relation))
    # The right answer follows from the options, because several things are shown.
    questions.append(_choice(asker, QuestionKind.SCENE_CHOICE, shown, pick(shown, rng), rng))
    return _shuffled(questions, rng)


def _where(asker: Asker, scene: Scene, concept: int, rng: np.random.Generator) -> Question:
    """Ask for a concept by one of its places."""
    places = tuple(place for place, there in scene.places() if there == concept)
    corners = tuple(place for place in places if place in QUADRANTS)
    halves = tuple(place for place in places if place not in QUADRANTS)
    chosen = pick(halves if halves and rng.integers(2) else corners, rng)
    return asker.ask(QuestionKind.POSITION, (AnswerKind.NAME, concept), rng, place=chosen)


def _count_questions(asker: Asker, scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Ask how often something is shown, so that each number is the answer about equally often.

    What has the most copies is asked about, in two wordings if there are many, and so is what is
    single beside it.
    """
    most = max(scene.counts.values())
    counts = [most] if most > 1 or rng.random() < _NO_COPIES_SHARE else []
    if most > 1 and 1 in scene.counts.values() and rng.random() < _BESIDE_COPIES_SHARE:
        counts.append(1)
    if most >= _MANY_COPIES and rng.random() < _MANY_COPIES_SHARE:
        counts.append(most)
    kind = QuestionKind.COUNT_NAME
    wordings = rng.permutation(asker.num_wordings(kind))
    questions = []
    for at, count in enumerate(counts):
        counted = pick(tuple(c for c in sorted(scene.counts) if scene.counts[c] == count), rng)
        number = (AnswerKind.NUMBER, count)
        question = asker.ask(kind, number, rng, concepts=(counted,))
        wording = int(wordings[min(at, 1)])
        questions.append(dataclasses.replace(question, wording=wording))
    return questions


def _yes_no_pair(
    asker: Asker, shown: tuple[int, ...], rng: np.random.Generator
) -> tuple[Question, Question]:
    """Ask whether something is shown, once with the answer yes and once with no."""
    yes, no = (asker.is_shown(shown, rng, answer_yes=answer) for answer in (True, False))
    return yes, no


def _caption_check(asker: Asker, shown: tuple[int, ...], rng: np.random.Generator) -> Question:
    """Ask whether a name describes the image, in the wordings of caption checks."""
    answer_yes = bool(rng.integers(2))
    kind = QuestionKind.CAPTION_CHECK
    return asker.is_shown(shown, rng, answer_yes=answer_yes, kind=kind)


def _choice(
    asker: Asker,
    kind: QuestionKind,
    shown: tuple[int, ...],
    right: int,
    rng: np.random.Generator,
) -> Question:
    position = int(rng.integers(NUM_CHOICES))
    return asker.choice(kind, shown, rng, right=right, position=position)


def _shuffled(questions: list[Question], rng: np.random.Generator) -> tuple[Question, ...]:
    return tuple(questions[int(at)] for at in rng.permutation(len(questions)))
