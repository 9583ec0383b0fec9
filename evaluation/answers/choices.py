"""Parsing of free replies to multiple-choice questions.

A reply that can't be parsed counts as wrong and is reported as unparsed. It is never replaced by a
random choice, a fallback that makes evaluation harnesses disagree.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

from evaluation.answers.choice_letters import stated_letters
from evaluation.answers.choice_words import NO_WORDS, ChoiceWords, ReplyClause, split_reply
from evaluation.answers.phrases import compile_phrases, plain_text
from evaluation.answers.rule import (
    NEUTRAL_RULES,
    AnswerRules,
    normalise_neutral,
    unify_numbers,
)

_MIN_PLURAL_STEM = 3


class ParsedBy(StrEnum):
    """The rule that matched a reply."""

    TEXT = "text"
    LETTER = "letter"
    WORDS = "words"
    PART = "part"
    NOTHING = "nothing"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParsedChoice:
    """The choice that a reply was parsed as."""

    index: int | None
    by: ParsedBy


_UNPARSED = ParsedChoice(index=None, by=ParsedBy.NOTHING)


def parse_choice(
    reply: str,
    choices: Sequence[str],
    *,
    words: ChoiceWords = NO_WORDS,
    rules: AnswerRules = NEUTRAL_RULES,
) -> ParsedChoice:
    """Parse a reply as one of the choices; the first rule that applies decides.

    Text: The reply equals exactly one choice after neutral normalisation.

    Letter: The reply states one option letter ("B", "(b) blue", "The answer is B."). If it also
    names another choice or negates its own, it is unparsed.

    Words: Exactly one choice occurs as whole words of the reply and is not negated in its clause.
    If choices overlap, the longer one counts. Texts are compared exactly, then by the strict and
    by the relaxed rule of the language, then with a plural ending.

    Part: The whole reply is a part of exactly one choice ("house" of "red house").

    A refusal is unparsed unless its text equals a choice.

    Args:
        reply: The raw reply.
        choices: The choices in the order of their letters.
        words: Words of the language.
        rules: Rules that decide when two texts of the language are equal.
    """
    options = _Options(choices, words, rules)
    text = _comparable(reply)
    if text and options.texts.count(text) == 1:
        return ParsedChoice(index=options.texts.index(text), by=ParsedBy.TEXT)
    if compile_phrases(words.refusal_phrases).search(plain_text(reply)):
        return _UNPARSED
    clauses = split_reply(reply, words)
    named, negated = options.named_in(clauses)
    letters = stated_letters(
        clauses, words, len(choices), lambda rest, index: index in options.equal_to(rest)
    )
    if letters:
        index = letters.pop()
        is_clear = not letters and index < len(choices) and index not in negated
        if is_clear and named <= {index}:
            return ParsedChoice(index=index, by=ParsedBy.LETTER)
        return _UNPARSED
    by = ParsedBy.WORDS
    if not named and not negated:
        named, by = options.containing(text), ParsedBy.PART
    return ParsedChoice(index=named.pop(), by=by) if len(named) == 1 else _UNPARSED


@dataclasses.dataclass(frozen=True, slots=True)
class _Occurrence:
    """A choice in a reply: words `start` to `end`."""

    index: int
    start: int
    end: int

    def is_inside(self, other: "_Occurrence") -> bool:
        size, other_size = self.end - self.start, other.end - other.start
        return other.start <= self.start and self.end <= other.end and size < other_size


class _Options:
    """The choices of an item, compared with texts."""

    def __init__(self, choices: Sequence[str], words: ChoiceWords, rules: AnswerRules) -> None:
        self.texts = [_comparable(choice) for choice in choices]
        self._words = words
        self._rules = rules
        self._longest = max((len(choice.split()) for choice in self.texts), default=0)

    def equal_to(self, text: str) -> set[int]:
        """Return the choices that a normalised text equals, by the strictest rule that applies."""
        rules: tuple[Callable[[str, str], bool], ...] = (
            str.__eq__,
            self._rules.strict.matches,
            self._rules.relaxed.matches,
            self._is_plural,
        )
        found = (self._matching(text, is_equal) for is_equal in rules if text)
        return next(filter(None, found), set())

    def named_in(self, clauses: Sequence[ReplyClause]) -> tuple[set[int], set[int]]:
        """Return the choices that occur in the clauses, and those that occur only negated."""
        found = list(self._occurrences(clauses))
        widest = [
            one
            for one in found
            if not any(one.is_inside(other) and one.index != other.index for other in found)
        ]
        # The words of a choice ("no" of "yes" and "no") negate nothing.
        in_choices = {at for one in found for at in range(one.start, one.end)}
        words = [(at, word) for at, clause in enumerate(clauses) for word in clause.words]
        negated_clauses = {
            clause
            for at, (clause, word) in enumerate(words)
            if self._words.is_negation(word.plain) and at not in in_choices
        }
        named = {
            one.index
            for one in widest
            if negated_clauses.isdisjoint(clause for clause, _ in words[one.start : one.end])
        }
        return named, {one.index for one in widest} - named

    def containing(self, text: str) -> set[int]:
        """Return the choices that contain a normalised text as whole words."""
        words = plain_text(text).split()
        if all(self._words.is_known(word) or self._words.is_negation(word) for word in words):
            return set()
        matches = self._rules.relaxed.matches
        return {
            index
            for index, choice in enumerate(self.texts)
            if any(matches(part, text) for part in _parts(choice.replace("%", " ").split()))
        }

    def _matching(self, text: str, is_equal: Callable[[str, str], bool]) -> set[int]:
        return {index for index, choice in enumerate(self.texts) if is_equal(text, choice)}

    def _is_plural(self, text: str, choice: str) -> bool:
        stems = {text.removesuffix(ending) for ending in self._words.plural_endings} - {text}
        return any(
            len(stem) >= _MIN_PLURAL_STEM and self._rules.relaxed.matches(stem, choice)
            for stem in stems
        )

    def _occurrences(self, clauses: Sequence[ReplyClause]) -> Iterator[_Occurrence]:
        words = [word for clause in clauses for word in clause.words]
        clause_at = [at for at, clause in enumerate(clauses) for _ in clause.words]
        for start in range(len(words)):
            for end in range(start + 1, min(start + self._longest + 1, len(words)) + 1):
                text = _comparable(" ".join(word.neutral for word in words[start:end]))
                # Only a choice with punctuation of its own extends over several clauses.
                is_one_clause = clause_at[start] == clause_at[end - 1]
                equal = self.equal_to(text) if is_one_clause else self._matching(text, str.__eq__)
                yield from (_Occurrence(index, start, end) for index in equal)


def _comparable(text: str) -> str:
    return unify_numbers(normalise_neutral(text))


def _parts(words: Sequence[str]) -> Iterator[str]:
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            yield " ".join(words[start:end])
