"""Questions about photographs, planned once and worded in every language.

Every title is as often the right answer as every other, and as often a wrong one, so that nothing
but the photograph tells which is right.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from core.chat.characters import split_words
from core.rng import named_rng
from data_prep.embedded.concepts import normalise
from data_prep.embedded.planning.questions import NUM_CHOICES
from data_prep.embedded.wordings import Language, QuestionKind
from data_prep.photographs.photograph import Photograph
from evaluation.benchmarks.items import Benchmark

MAX_TITLE_WORDS, MAX_TITLE_CHARS = 5, 28
"""Longer captions are sentences, which the wordings of names do not suit, and which are longer than
the replies of the embedded profile."""

_SEPARATORS = frozenset(',;:?!()"')
"""Characters that make a title unusable in a list or a question."""
Items = dict[str, list[dict[str, Any]]]
"""Key of a photograph -> its items."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NamedPhotograph:
    """A photograph of a concept with all its accepted names."""

    photograph: Photograph
    answers: Mapping[str, tuple[str, ...]]
    """Language -> ten accepted answers."""


def usable_titles(photographs: Sequence[Photograph]) -> list[Photograph]:
    """Return the photographs whose titles can be asked about in every language."""
    titled = [one for one in photographs if one.titles]
    return [one for one in titled if all(map(_is_short, one.titles.values()))]


def _is_short(title: str) -> bool:
    is_short = len(title) <= MAX_TITLE_CHARS and 0 < len(split_words(title)) <= MAX_TITLE_WORDS
    return is_short and _SEPARATORS.isdisjoint(title)


class Planner:
    """Plans the questions of a benchmark."""

    def __init__(self, languages: Sequence[Language], seed: int) -> None:
        self._languages = {language.code: language for language in languages}
        self._seed = seed

    def title_items(self, photographs: Sequence[Photograph]) -> Items:
        """Return, of every photograph, a choice among titles and a yes/no question."""
        items: Items = defaultdict(list)
        for ring in self._rings(photographs, "titles"):
            for place, photograph in enumerate(ring):
                wrong = _distractors(ring, place, _have_different_titles)
                if len(wrong) == NUM_CHOICES - 1:
                    items[photograph.key].append(self._choice(photograph, wrong))
            # The same title about two photographs: one answer is yes and the other no.
            for asked, other in zip(ring[::2], ring[1::2], strict=False):
                if _have_different_titles(asked, other):
                    items[asked.key].append(self._yes_no(asked, asked))
                    items[other.key].append(self._yes_no(other, asked))
        return dict(items)

    def description_items(self, photographs: Sequence[Photograph]) -> Items:
        """Return a choice among descriptions for every photograph that has one."""
        described = [photograph for photograph in photographs if photograph.descriptions]
        items: Items = {}
        for ring in self._rings(described, "descriptions"):
            for place, photograph in enumerate(ring):
                wrong = _distractors(ring, place, _have_different_descriptions)
                if len(wrong) == NUM_CHOICES - 1:
                    items[photograph.key] = [self._description(photograph, wrong)]
        return items

    def name_items(self, named: Sequence[NamedPhotograph]) -> Items:
        """Return a question for the name of every photograph."""
        items: Items = {}
        for one in named:
            key = one.photograph.key
            rng = self._rng("name", key)
            question = self._word(QuestionKind.NAME, rng)
            items[key] = [
                {
                    "question_id": f"name-{key}",
                    "benchmark": Benchmark.VQA.value,
                    "answer_type": "other",
                    "question_type": "name",
                    "question": question,
                    "answers": {code: list(one.answers[code]) for code in self._languages},
                }
            ]
        return items

    def _rings(self, photographs: Sequence[Photograph], name: str) -> list[list[Photograph]]:
        """Return the photographs of each group in random order; small groups are joined."""
        groups: dict[str, list[Photograph]] = defaultdict(list)
        for photograph in sorted(photographs, key=lambda one: one.key):
            groups[photograph.group].append(photograph)
        rings: list[list[Photograph]] = []
        rest: list[list[Photograph]] = []
        for group in sorted(groups):
            (rings if len(groups[group]) >= NUM_CHOICES else rest).append(groups[group])
        if joined := [photograph for ring in rest for photograph in ring]:
            rings.append(joined)
        return [
            [ring[int(i)] for i in self._rng(name, ring[0].group).permutation(len(ring))]
            for ring in rings
        ]

    def _choice(self, right: Photograph, wrong: Sequence[Photograph]) -> dict[str, Any]:
        rng = self._rng("choice", right.key)
        options = _shuffled([right, *wrong], rng)
        choices = {code: [one.titles[code] for one in options] for code in self._languages}
        blanks = {code: dict(zip("abcd", texts, strict=True)) for code, texts in choices.items()}
        return {
            "question_id": f"title-{right.key}",
            "benchmark": Benchmark.MULTIPLE_CHOICE.value,
            "answer_type": "choice",
            "question_type": "title",
            "question": self._word(QuestionKind.SCENE_CHOICE, rng, blanks),
            "choices": choices,
            "correct_choice": options.index(right),
        }

    def _yes_no(self, shown: Photograph, asked: Photograph) -> dict[str, Any]:
        rng = self._rng("yes_no", shown.key)
        blanks = {code: {"name": asked.titles[code]} for code in self._languages}
        is_yes = asked is shown
        return {
            "question_id": f"check-{shown.key}",
            "benchmark": Benchmark.CAPTION_QA.value,
            "answer_type": "yes/no",
            "question_type": "title_check",
            "question": self._word(QuestionKind.IS_SHOWN, rng, blanks),
            "answers": {
                code: [language.yes if is_yes else language.no]
                for code, language in self._languages.items()
            },
        }

    def _description(self, right: Photograph, wrong: Sequence[Photograph]) -> dict[str, Any]:
        rng = self._rng("description", right.key)
        options = _shuffled([right, *wrong], rng)
        return {
            "question_id": f"description-{right.key}",
            "benchmark": Benchmark.MULTIPLE_CHOICE.value,
            "answer_type": "choice",
            "question_type": "description",
            "question": self._word(QuestionKind.DESCRIPTION, rng),
            "choices": {
                code: [one.descriptions[code] for one in options] for code in self._languages
            },
            "correct_choice": options.index(right),
        }

    def _word(
        self,
        kind: QuestionKind,
        rng: np.random.Generator,
        blanks: Mapping[str, Mapping[str, str]] | None = None,
    ) -> dict[str, str]:
        """Word a question in every language, with a wording that uses no declined name."""
        wordings = {
            code: [wording.singular for wording in language.questions[kind]]
            for code, language in self._languages.items()
        }
        numbers = [
            number
            for number in range(len(next(iter(wordings.values()))))
            if not any("{name_" in texts[number] for texts in wordings.values())
        ]
        chosen = numbers[int(rng.integers(len(numbers)))]
        return {
            code: texts[chosen].format(**(blanks or {}).get(code, {}))
            for code, texts in wordings.items()
        }

    def _rng(self, *names: str) -> np.random.Generator:
        return named_rng(self._seed, "photographs", *names)


def _distractors(
    ring: Sequence[Photograph],
    place: int,
    are_different: Callable[[Photograph, Photograph], bool],
) -> list[Photograph]:
    """Return up to three others that follow in the ring and differ from this and each other."""
    chosen: list[Photograph] = []
    for step in range(1, len(ring)):
        other = ring[(place + step) % len(ring)]
        if all(are_different(other, one) for one in (ring[place], *chosen)):
            chosen.append(other)
        if len(chosen) == NUM_CHOICES - 1:
            break
    return chosen


def _have_different_titles(first: Photograph, second: Photograph) -> bool:
    """Return whether neither title can be true of the other photograph, as far as words tell."""
    for language, title in first.titles.items():
        texts = (title, second.titles[language])
        ours, theirs = (set(split_words(text.casefold())) for text in texts)
        if ours <= theirs or theirs <= ours:
            return False
    return True


def _have_different_descriptions(first: Photograph, second: Photograph) -> bool:
    return _have_different_titles(first, second) and all(
        normalise(text) != normalise(second.descriptions[language])
        for language, text in first.descriptions.items()
    )


def _shuffled(options: Sequence[Photograph], rng: np.random.Generator) -> list[Photograph]:
    return [options[int(i)] for i in rng.permutation(len(options))]
