"""Questions before they are words: planned once without a language, then worded in each.

So two languages have the same turns, the same choices and the same right answers by construction.
"""

import dataclasses
from enum import StrEnum
from typing import TypeVar

import numpy as np

from data_prep.embedded.concepts import Catalogue, Lexicon, categories_overlap
from data_prep.embedded.wordings import MODEL_LANGUAGE, QuestionKind, load_language

NUM_CHOICES = 4

_T = TypeVar("_T")


class AnswerKind(StrEnum):
    """What an answer is, which also decides how it is scored."""

    NAME = "name"
    CATEGORY = "category"
    NUMBER = "number"
    YES_NO = "yes_no"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question with its right answer, in no language."""

    kind: QuestionKind
    wording: int
    """Which of the wordings; they correspond across languages."""
    answer_kind: AnswerKind
    answer: int | str
    """Concept number, category key, count, or 1/0 for yes/no."""
    concepts: tuple[int, ...] = ()
    """The concept in {name}, or the four choices in order."""
    place: str = ""
    """Key of {place} or {relation}."""
    category: str = ""


def is_choice(kind: QuestionKind) -> bool:
    """Whether the question lists its possible answers."""
    return kind in (QuestionKind.CHOICE, QuestionKind.SCENE_CHOICE)


def word_question(question: Question, lexicon: Lexicon) -> str:
    """The question in one language; names go in exactly as CLDR gives them."""
    language = lexicon.language
    template = language.questions[question.kind][question.wording]
    names = [lexicon.names[concept] for concept in question.concepts]
    blanks: dict[str, str] = {}
    if is_choice(question.kind):
        blanks = dict(zip("abcd", names, strict=True))
    elif names:
        blanks["name"] = names[0]
    if question.kind is QuestionKind.NEIGHBOUR:
        blanks["relation"] = language.relations[question.place]
    elif question.place:
        blanks["place"] = language.places[question.place][0]
    if question.category:
        blanks["category"] = language.categories[question.category][1]
    return template.format(**blanks)


def word_answer(question: Question, lexicon: Lexicon) -> str:
    """The right answer in one language: one bare word or name, no full stop."""
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
    """Draws questions: right answers from the image, wrong ones fair and never arguable."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.categories = np.array([concept.category for concept in catalogue.concepts])
        model = load_language(MODEL_LANGUAGE)
        self._num_wordings = {kind: len(words) for kind, words in model.questions.items()}

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
        """A question in one of its wordings."""
        return Question(
            kind=kind,
            wording=int(rng.integers(self._num_wordings[kind])),
            answer_kind=answer[0],
            answer=answer[1],
            concepts=concepts,
            place=place,
            category=category,
        )

    def is_shown(
        self, shown: tuple[int, ...], rng: np.random.Generator, *, answer_yes: bool
    ) -> Question:
        """Whether a thing is in the image; half of the wrong ones are of a shown category."""
        if answer_yes:
            concept = pick(shown, rng)
        else:
            near = bool(rng.integers(2))
            category = self.catalogue.concepts[pick(shown, rng)].category if near else ""
            concept = self.others(shown, 1, rng, category=category)[0]
        answer = (AnswerKind.YES_NO, int(answer_yes))
        return self.ask(QuestionKind.IS_SHOWN, answer, rng, concepts=(concept,))

    def is_category(self, concept: int, rng: np.random.Generator, *, answer_yes: bool) -> Question:
        """Whether the thing is of a category; a wrong one is wrong beyond doubt."""
        category = self.catalogue.concepts[concept].category
        if not answer_yes:
            category = pick(self.far_categories(concept), rng)
        answer = (AnswerKind.YES_NO, int(answer_yes))
        return self.ask(QuestionKind.IS_CATEGORY, answer, rng, category=category)

    def category(self, concept: int, rng: np.random.Generator) -> Question:
        """What kind of thing it is."""
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
        """One of four names; all of one category or of four, so the odd one out tells nothing."""
        wrong = self.wrong_choices(shown, right, rng, near=bool(rng.integers(2)))
        choices = (*wrong[:position], right, *wrong[position:])
        return self.ask(kind, (AnswerKind.NAME, right), rng, concepts=choices)

    def wrong_choices(
        self, shown: tuple[int, ...], right: int, rng: np.random.Generator, *, near: bool
    ) -> tuple[int, ...]:
        """Three wrong names: all of the right one's category, or each of another category."""
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
        """Concepts that are surely not shown, first those of the category if one is given.

        Among the wrong answers of one question no two are confusable with what is shown; where a
        category is too small the rest come from all concepts.
        """
        allowed: np.ndarray = ~np.any(self.catalogue.confusable[list(shown)], axis=0)
        order = rng.permutation(len(allowed))
        order = order[allowed[order]]
        if category:
            inside = self.categories[order] == category
            order = np.concatenate([order[inside], order[~inside]])
        return tuple(int(concept) for concept in order[:count])

    def far_categories(self, concept: int) -> tuple[str, ...]:
        """The categories that the concept surely is not of."""
        own = self.catalogue.concepts[concept].category
        present = sorted(set(self.categories.tolist()))
        return tuple(other for other in present if not categories_overlap(own, other))


def pick(items: tuple[_T, ...], rng: np.random.Generator) -> _T:
    """One of several, each equally likely."""
    return items[int(rng.integers(len(items)))]
