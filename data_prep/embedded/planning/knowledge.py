"""Knowledge questions: held-out text-only questions that measure language models per language.

Each question follows a description of its own. All languages have the same questions, and the
probability of guessing the answer is known, so that scores above chance can be compared.
"""

import dataclasses
from enum import StrEnum

import numpy as np

from core.rng import named_rng
from data_prep.embedded.planning.conversations import NUM_KEYWORDS, Chat, scene_questions
from data_prep.embedded.planning.questions import NUM_CHOICES, AnswerKind, Asker, Question, pick
from data_prep.embedded.planning.scenes import Combination, Scene, SceneMaker, draw_pattern
from data_prep.embedded.wordings import MAX_COUNT, QuestionKind

NUM_PER_TYPE = 312
"""A multiple of 24, so that all kinds, answers and positions of a type are equally frequent."""

QuestionKey = tuple[object, ...]
"""What makes a question about a description the same as another one."""


class KnowledgeType(StrEnum):
    """Types of questions, which differ in how an answer can be guessed."""

    CHOICE = "choice"
    """One of four names that the question lists."""
    YES_NO = "yes_no"
    NUMBER = "number"
    """One to four."""
    LISTING = "listing"
    """One of the names of a listing, by its place."""
    OPEN = "open"
    """A category, or a name for which the description gives only keywords."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KnowledgeQuestion:
    """A held-out question with its description."""

    type: KnowledgeType
    chat: Chat
    """A conversation of this question alone."""
    chance: float
    """Probability that a guess among the possible answers is right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Content that the training conversations of language models must not have."""

    keys: frozenset[QuestionKey]
    """Held-out questions about their descriptions."""
    combinations: frozenset[Combination]
    """Combinations of things in the listings of held-out questions."""

    def without(self, chat: Chat) -> Chat | None:
        """Return the conversation without held-out questions; None if none is left."""
        kept = tuple(one for one in chat.questions if question_key(chat, one) not in self.keys)
        return dataclasses.replace(chat, questions=kept) if kept else None


def question_key(chat: Chat, question: Question) -> QuestionKey:
    """Identify a question about a description, independently of the language."""
    described = chat.scene.quadrants if chat.scene else (chat.concept, chat.by_keywords)
    asked = (question.kind, question.wording, question.concepts, question.place, question.category)
    return described, *asked


def held_out(questions: tuple[KnowledgeQuestion, ...]) -> HeldOut:
    """Return what training conversations must avoid because of these questions."""
    scenes = [question.chat.scene for question in questions if question.chat.scene]
    return HeldOut(
        keys=frozenset(
            question_key(question.chat, question.chat.questions[0]) for question in questions
        ),
        combinations=frozenset(combo for scene in scenes for combo in scene.combinations),
    )


class KnowledgePlanner:
    """Plans the questions; within a type, kinds and answers alternate."""

    def __init__(self, asker: Asker, seed: int) -> None:
        self._asker = asker
        self._seed = seed
        self._maker = SceneMaker(asker, set())
        catalogue = asker.catalogue
        order = named_rng(seed, "knowledge", "concepts").permutation(len(catalogue))
        self._concepts = tuple(int(concept) for concept in order)
        self._with_keywords = tuple(
            concept
            for concept in self._concepts
            if all(len(lexicon.keywords[concept]) >= NUM_KEYWORDS for lexicon in catalogue.lexicons)
        )

    def questions(self, per_type: int) -> tuple[KnowledgeQuestion, ...]:
        """Return this many questions of every type."""
        plans = {
            KnowledgeType.CHOICE: self._choice,
            KnowledgeType.YES_NO: self._yes_no,
            KnowledgeType.NUMBER: self._number,
            KnowledgeType.LISTING: self._listing,
            KnowledgeType.OPEN: self._open,
        }
        return tuple(
            plan(number, named_rng(self._seed, "knowledge", kind, number))
            for kind, plan in plans.items()
            for number in range(per_type)
        )

    def _choice(self, number: int, rng: np.random.Generator) -> KnowledgeQuestion:
        """Ask about a name, keywords and a listing in turn."""
        position, about = number % NUM_CHOICES, number // NUM_CHOICES
        scene, kind = None, QuestionKind.CHOICE
        if about % 3 == 0:
            scene, kind = self._scene(rng), QuestionKind.SCENE_CHOICE
        by_keywords = about % 3 == 1 and bool(self._with_keywords)
        concept = self._concept(about, by_keywords=by_keywords)
        shown = tuple(sorted(scene.counts)) if scene else (concept,)
        question = self._asker.choice(kind, shown, rng, right=pick(shown, rng), position=position)
        chat = _ask_about(question, concept, scene, by_keywords=by_keywords)
        return KnowledgeQuestion(type=KnowledgeType.CHOICE, chat=chat, chance=1 / NUM_CHOICES)

    def _yes_no(self, number: int, rng: np.random.Generator) -> KnowledgeQuestion:
        """Ask about a listing, a name and a category in turn."""
        answer_yes, about = number % 2 == 0, number // 2
        concept, scene = self._concept(about), None
        if about % 3 == 2:  # noqa: PLR2004 - the third of three
            question = self._asker.is_category(concept, rng, answer_yes=answer_yes)
        else:
            scene = self._scene(rng) if about % 3 == 0 else None
            shown = tuple(sorted(scene.counts)) if scene else (concept,)
            question = self._asker.is_shown(shown, rng, answer_yes=answer_yes)
        chat = _ask_about(question, concept, scene)
        return KnowledgeQuestion(type=KnowledgeType.YES_NO, chat=chat, chance=1 / 2)

    def _number(self, number: int, rng: np.random.Generator) -> KnowledgeQuestion:
        """Ask for every number equally often, of all things and of one kind of thing in turn."""
        count, of_all = number % MAX_COUNT + 1, (number // MAX_COUNT) % 2 == 0
        answer = (AnswerKind.NUMBER, count)
        while True:
            scene = self._scene(rng)
            named = tuple(c for c, copies in sorted(scene.counts.items()) if copies == count)
            if of_all and len(scene.things) == count:
                question = self._asker.ask(QuestionKind.COUNT_THINGS, answer, rng)
                break
            if not of_all and named:
                kind, one = QuestionKind.COUNT_NAME, pick(named, rng)
                question = self._asker.ask(kind, answer, rng, concepts=(one,))
                break
        chat = _ask_about(question, None, scene)
        return KnowledgeQuestion(type=KnowledgeType.NUMBER, chat=chat, chance=1 / MAX_COUNT)

    def _listing(self, number: int, rng: np.random.Generator) -> KnowledgeQuestion:
        """Ask for what is at a place, and next to another thing, in turn."""
        wanted = QuestionKind.POSITION if number % 2 == 0 else QuestionKind.NEIGHBOUR
        while True:
            scene = self._scene(rng)
            found = [one for one in scene_questions(self._asker, scene, rng) if one.kind is wanted]
            if found and len(scene.counts) > 1:
                break
        chat = _ask_about(found[0], None, scene)
        chance = 1 / len(scene.counts)
        return KnowledgeQuestion(type=KnowledgeType.LISTING, chat=chat, chance=chance)

    def _open(self, number: int, rng: np.random.Generator) -> KnowledgeQuestion:
        """Ask for the category of a name, and for a name by its keywords, in turn."""
        by_keywords = number % 2 == 1 and bool(self._with_keywords)
        concept = self._concept(number // 2, by_keywords=by_keywords)
        if by_keywords:
            question = self._asker.ask(QuestionKind.NAME, (AnswerKind.NAME, concept), rng)
            chance = 1 / len(self._asker.catalogue)
        else:
            question = self._asker.category(concept, rng)
            chance = 1 / len(set(self._asker.categories.tolist()))
        chat = _ask_about(question, concept, None, by_keywords=by_keywords)
        return KnowledgeQuestion(type=KnowledgeType.OPEN, chat=chat, chance=chance)

    def _concept(self, number: int, *, by_keywords: bool = False) -> int:
        concepts = self._with_keywords if by_keywords else self._concepts
        return concepts[number % len(concepts)]

    def _scene(self, rng: np.random.Generator) -> Scene:
        return self._maker.make(draw_pattern(rng), rng)


def _ask_about(
    question: Question, concept: int | None, scene: Scene | None, *, by_keywords: bool = False
) -> Chat:
    return Chat(
        concept=None if scene else concept,
        scene=scene,
        by_keywords=by_keywords,
        questions=(question,),
    )
