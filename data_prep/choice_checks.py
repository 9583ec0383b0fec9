"""Checks whether multiple-choice questions can be answered without their images.

Each rule picks an option from the texts alone. A rule that is right more often than guessing shows
that an accuracy on the benchmark need not come from the images.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from scipy.sparse import csr_matrix
from scipy.stats import binom

from core.chat.characters import split_words

REVEALING_LEVEL = 0.05
"""Chance of a warning about a benchmark without any such fault, over all rules."""

_NEIGHBOUR_ROWS = 512
_ENDING_LETTERS = 2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceQuestion:
    """The text of a multiple-choice question."""

    question: str
    choices: tuple[str, ...]
    correct_choice: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextOnlyRule:
    """Result of a rule that does not use the image."""

    name: str
    accuracy: float
    """Share of questions answered correctly, in 0..1; a tie of m options counts 1/m."""
    chance: float
    """Accuracy of guessing, in 0..1."""
    p_value: float
    """One-sided probability of this accuracy by guessing (binomial)."""


def text_only_rules(questions: Sequence[ChoiceQuestion]) -> tuple[TextOnlyRule, ...]:
    """Apply every rule to the questions of one language, in the order of the table."""
    chance = float(np.mean([1 / len(one.choices) for one in questions]))
    results = []
    for name, rule in _RULES.items():
        hits, num_tries = rule(questions)
        tail = float(binom.sf(math.floor(hits + 1e-9) - 1, len(questions), chance))
        results.append(
            TextOnlyRule(
                name=name,
                accuracy=hits / len(questions),
                chance=chance,
                p_value=min(1.0, tail * num_tries),
            )
        )
    return tuple(results)


def revealing_rules(rules: Sequence[TextOnlyRule]) -> tuple[TextOnlyRule, ...]:
    """Return the rules that beat guessing at the level `REVEALING_LEVEL`, Bonferroni-corrected."""
    return tuple(rule for rule in rules if rule.p_value <= REVEALING_LEVEL / len(rules))


def check_text_only(items: Sequence[dict[str, Any]]) -> dict[str, tuple[TextOnlyRule, ...]]:
    """Apply the text-only rules to the multiple-choice questions of every language."""
    questions: dict[str, list[ChoiceQuestion]] = {}
    for item in items:
        for language, choices in item.get("choices", {}).items():
            question = ChoiceQuestion(
                question=item["question"][language],
                choices=tuple(choices),
                correct_choice=item["correct_choice"],
            )
            questions.setdefault(language, []).append(question)
    return {language: text_only_rules(asked) for language, asked in questions.items()}


def print_rules(console: Console, language: str, rules: Sequence[TextOnlyRule]) -> None:
    """Print the best rule of a language, and a warning for every rule that reveals answers."""
    best = max(rules, key=lambda rule: rule.accuracy)
    console.print(
        f"{language}: without images, the best text-only rule ({best.name}) answers "
        f"{best.accuracy:.0%} correctly (chance: {best.chance:.0%})",
        highlight=False,
    )
    for rule in revealing_rules(rules):
        console.print(
            f"[yellow]warning: {escape(language)}: '{rule.name}' answers {rule.accuracy:.0%} "
            f"correctly (chance: {rule.chance:.0%}, p = {rule.p_value:.2g}): the texts reveal "
            "answers, so accuracy may not depend on the images; rewrite the questions, or use "
            "--shuffle-choices if the positions are predictable[/yellow]",
            highlight=False,
        )


def _same_letter(questions: Sequence[ChoiceQuestion]) -> tuple[float, int]:
    letters = Counter(one.correct_choice for one in questions)
    return float(max(letters.values())), max(len(one.choices) for one in questions)


def _letter_by_row(questions: Sequence[ChoiceQuestion]) -> tuple[float, int]:
    """Return the hits of the letters in turn, from the best first letter."""
    starts = Counter(
        (one.correct_choice - row) % len(one.choices) for row, one in enumerate(questions)
    )
    return float(max(starts.values())), max(len(one.choices) for one in questions)


def _longest_option(questions: Sequence[ChoiceQuestion]) -> tuple[float, int]:
    return _highest(questions, lambda _, option: len(option)), 1


def _shortest_option(questions: Sequence[ChoiceQuestion]) -> tuple[float, int]:
    return _highest(questions, lambda _, option: -len(option)), 1


def _odd_ending(questions: Sequence[ChoiceQuestion]) -> tuple[float, int]:
    """Prefer the option whose ending is rarest, such as the only one in another case."""

    def rarity(one: ChoiceQuestion, option: str) -> int:
        endings = Counter(other[-_ENDING_LETTERS:] for other in one.choices)
        return -endings[option[-_ENDING_LETTERS:]]

    return _highest(questions, rarity), 1


def _words_of_question(questions: Sequence[ChoiceQuestion]) -> tuple[float, int]:
    def shared(one: ChoiceQuestion, option: str) -> int:
        return len(_distinct_words(one.question) & _distinct_words(option))

    return _highest(questions, shared), 1


def _often_right(questions: Sequence[ChoiceQuestion]) -> tuple[float, int]:
    """Prefer the option that is most often right among the other questions."""
    right = Counter(one.choices[one.correct_choice] for one in questions)

    def elsewhere(one: ChoiceQuestion, option: str) -> int:
        return right[option] - (option == one.choices[one.correct_choice])

    return _highest(questions, elsewhere), 1


def _similar_question(questions: Sequence[ChoiceQuestion]) -> tuple[float, int]:
    """Prefer the right option of the other question that shares most words (Jaccard index)."""
    others = [questions[nearest] for nearest in _nearest_questions(questions)]
    wanted = {
        id(one): other.choices[other.correct_choice]
        for one, other in zip(questions, others, strict=True)
    }
    return _highest(questions, lambda one, option: option == wanted[id(one)]), 1


def _nearest_questions(questions: Sequence[ChoiceQuestion]) -> list[int]:
    texts = [_distinct_words(" ".join((one.question, *one.choices))) for one in questions]
    numbers = {word: number for number, word in enumerate(sorted(set().union(*texts)))}
    columns = [numbers[word] for text in texts for word in sorted(text)]
    lengths_N = np.array([len(text) for text in texts])
    bounds = np.concatenate([[0], np.cumsum(lengths_N)])
    shape = (len(texts), len(numbers))
    words_NV = csr_matrix((np.ones(len(columns)), columns, bounds), shape=shape)
    nearest: list[int] = []
    for start in range(0, len(texts), _NEIGHBOUR_ROWS):
        rows = slice(start, start + _NEIGHBOUR_ROWS)
        shared = (words_NV[rows] @ words_NV.T).toarray()
        index = shared / np.maximum(lengths_N[rows, None] + lengths_N[None] - shared, 1)
        index[np.arange(len(index)), start + np.arange(len(index))] = -1.0
        nearest += index.argmax(axis=1).tolist()
    return nearest


def _highest(
    questions: Sequence[ChoiceQuestion], value: Callable[[ChoiceQuestion, str], int]
) -> float:
    """Return the hits of the option with the highest value; a tie of m options counts 1/m."""
    hits = 0.0
    for one in questions:
        values = [value(one, option) for option in one.choices]
        if values[one.correct_choice] == max(values):
            hits += 1 / values.count(max(values))
    return hits


def _distinct_words(text: str) -> set[str]:
    return set(split_words(text.casefold()))


_RULES: dict[str, Callable[[Sequence[ChoiceQuestion]], tuple[float, int]]] = {
    "always the same letter": _same_letter,
    "letter by row number": _letter_by_row,
    "longest option": _longest_option,
    "shortest option": _shortest_option,
    "option with the rarest ending": _odd_ending,
    "option with words of the question": _words_of_question,
    "option that is often right elsewhere": _often_right,
    "right option of the most similar question": _similar_question,
}
"""Rule -> (number of hits, number of variants among which the best was taken)."""
