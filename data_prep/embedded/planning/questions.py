"""Language-independent questions, planned once and then worded in every language.

Therefore all languages have the same turns, choices and right answers.
"""

import dataclasses
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

import numpy as np

from data_prep.embedded.concepts import Catalogue, Lexicon, categories_overlap
from data_prep.embedded.wordings import MODEL_LANGUAGE, QuestionKind, load_language

NUM_CHOICES = 4

_T = TypeVar("_T")


class AnswerKind(StrEnum):
    """Kind of an answer, which also determines how it is scored."""

    NAME = "name"
    CATEGORY = "category"
    NUMBER = "number"
    YES_NO = "yes_no"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A language-independent question with its right answer."""

    kind: QuestionKind
    wording: int
    """Index of the wording; wordings correspond across languages."""
    answer_kind: AnswerKind
    answer: int | str
    """Concept index, category key, count, or 1/0 for yes/no."""
    concepts: tuple[int, ...] = ()
    """The concept in {name}, or the four choices in order."""
    place: str = ""
    """Key of {place} or {relation}."""
    category: str = ""


def is_choice(kind: QuestionKind) -> bool:
    """Return whether the question lists its possible answers."""
    return kind in (QuestionKind.CHOICE, QuestionKind.SCENE_CHOICE)


def word_question(question: Question, lexicon: Lexicon) -> str:
    """Word the question in one language; the wording agrees in number with the name in it."""
    language = lexicon.language
    blanks: dict[str, str] = {}
    is_plural = False
    if is_choice(question.kind):
        names = [lexicon.names[concept] for concept in question.concepts]
        blanks = dict(zip("abcd", names, strict=True))
    elif question.concepts:
        is_plural = lexicon.is_plural(question.concepts[0])
        blanks = lexicon.forms(question.concepts[0])
    if question.kind is QuestionKind.NEIGHBOUR:
        blanks["relation"] = language.relations[question.place].agree(is_plural=is_plural)
    elif question.place:
        blanks["place"] = language.places[question.place][0]
    if question.category:
        blanks["category"] = language.categories[question.category][1]
    wording = language.questions[question.kind][question.wording]
    return wording.agree(is_plural=is_plural).format(**blanks)


def word_answer(question: Question, lexicon: Lexicon) -> str:
    """Word the right answer in one language: a bare word or name without a full stop."""
    language = lexicon.language
    match question.answer_kind:
        case AnswerKind.NAME:
            return lexicon.names[int(question.answer)]
        case AnswerKind.CATEGORY:
            return language.categories[str(question.answer)][0]
        case AnswerKind.NUMBER:
            return language.numbers[int(question.answer) - 1]
        case AnswerKind.YES_NO:
            return language.yes if question.answer else language.no


class Asker:
    """Draws questions whose wrong answers are plausible but unambiguously wrong."""

    def __init__(self, catalogue: Catalogue, *, left_out: Sequence[int] = ()) -> None:
        """Create an asker.

        Args:
            catalogue: The concepts.
            left_out: Concepts that are never drawn as wrong answers.
        """
        self.catalogue = catalogue
        self._drawn = np.ones(len(catalogue), dtype=bool)
        self._drawn[list(left_out)] = False
        self.categories = np.array([concept.category for concept in catalogue.concepts])
        model = load_language(MODEL_LANGUAGE)
        self._num_wordings = {kind: len(words) for kind, words in model.questions.items()}

    def num_wordings(self, kind: QuestionKind) -> int:
        """Return the number of wordings of a kind, which is the same in every language."""
        return self._num_wordings[kind]

    def ask(
        self,
        kind: QuestionKind,
        answer: tuple[AnswerKind, int | str],
        rng: np.random.Generator,
        *,
        concepts: tuple[int, ...] = (),
        place: str = "",
        category: str = "",
    ) -> Question:
        """Return a question in a random wording."""
        return Question(
            kind=kind,
            wording=int(rng.integers(self.num_wordings(kind))),
            answer_kind=answer[0],
            answer=answer[1],
            concepts=concepts,
            place=place,
            category=category,
        )

    def is_shown(
        self,
        shown: tuple[int, ...],
        rng: np.random.Generator,
        *,
        answer_yes: bool,
        kind: QuestionKind = QuestionKind.IS_SHOWN,
    ) -> Question:
        """Ask whether a concept is shown; half of the absent ones share a shown category."""
        if answer_yes:
            concept = pick(shown, rng)
        else:
            near = bool(rng.integers(2))
            category = self.catalogue.concepts[pick(shown, rng)].category if near else ""
            concept = self.others(shown, 1, rng, category=category)[0]
        answer = (AnswerKind.YES_NO, int(answer_yes))
        return self.ask(kind, answer, rng, concepts=(concept,))

    def is_category(self, concept: int, rng: np.random.Generator, *, answer_yes: bool) -> Question:
        """Ask whether the concept belongs to a category, which is right or clearly wrong."""
        category = self.catalogue.concepts[concept].category
        if not answer_yes:
            category = pick(self.far_categories(concept), rng)
        answer = (AnswerKind.YES_NO, int(answer_yes))
        return self.ask(QuestionKind.IS_CATEGORY, answer, rng, category=category)

    def category(self, concept: int, rng: np.random.Generator) -> Question:
        """Ask for the category of the concept."""
        answer = (AnswerKind.CATEGORY, self.catalogue.concepts[concept].category)
        return self.ask(QuestionKind.CATEGORY, answer, rng)

    def choice(
        self,
        kind: QuestionKind,
        shown: tuple[int, ...],
        rng: np.random.Generator,
        *,
        right: int,
        position: int,
    ) -> Question:
        """Ask for one of four names, all of one category or all of different categories."""
        wrong = self.wrong_choices(shown, right, rng, near=bool(rng.integers(2)))
        choices = (*wrong[:position], right, *wrong[position:])
        return self.ask(kind, (AnswerKind.NAME, right), rng, concepts=choices)

    def wrong_choices(
        self, shown: tuple[int, ...], right: int, rng: np.random.Generator, *, near: bool
    ) -> tuple[int, ...]:
        """Draw three wrong names, all of the right one's category or of different ones."""
        category = self.catalogue.concepts[right].category
        inside = self.others(shown, NUM_CHOICES - 1, rng, category=category)
        if near and all(self.categories[concept] == category for concept in inside):
            return inside
        wrong: tuple[int, ...] = ()
        used = {category}
        for concept in self.others(shown, len(self.catalogue), rng):
            if len(wrong) < NUM_CHOICES - 1 and self.categories[concept] not in used:
                wrong = (*wrong, concept)
                used.add(str(self.categories[concept]))
        return wrong if len(wrong) == NUM_CHOICES - 1 else self.others(shown, NUM_CHOICES - 1, rng)

    def others(
        self, shown: tuple[int, ...], count: int, rng: np.random.Generator, *, category: str = ""
    ) -> tuple[int, ...]:
        """Draw concepts that are not confusable with the shown ones.

        Concepts of `category` come first; if there are too few, the rest come from all categories.
        """
        allowed: np.ndarray = ~np.any(self.catalogue.confusable[list(shown)], axis=0) & self._drawn
        order = rng.permutation(len(allowed))
        order = order[allowed[order]]
        if category:
            inside = self.categories[order] == category
            order = np.concatenate([order[inside], order[~inside]])
        return tuple(int(concept) for concept in order[:count])

    def far_categories(self, concept: int) -> tuple[str, ...]:
        """Return the categories to which the concept clearly does not belong."""
        own = self.catalogue.concepts[concept].category
        present = sorted(set(self.categories.tolist()))
        return tuple(other for other in present if not categories_overlap(own, other))


def pick(items: tuple[_T, ...], rng: np.random.Generator) -> _T:
    """Draw one of the items with equal probability."""
    return items[int(rng.integers(len(items)))]
