"""Parsing of free replies to multiple-choice questions.

A reply that can't be parsed counts as wrong and is reported as unparsed. It is never replaced by a
random choice, a fallback that makes evaluation harnesses disagree.
"""

import dataclasses
import re
import string
from collections.abc import Sequence
from enum import StrEnum

from core.chat.characters import is_in_word
from evaluation.answers.rule import normalise_neutral

_LETTER = re.compile(r"\s*\(?([A-Za-z])(?:\s*$|[.):](?:\s|$))")
_IN_NUMBERS = frozenset(string.digits + ".,")
"""Normalised text has full stops and commas between digits only."""


class ParsedBy(StrEnum):
    """The rule that matched a reply."""

    TEXT = "text"
    LETTER = "letter"
    SUBSTRING = "substring"
    NOTHING = "nothing"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParsedChoice:
    """The choice that a reply was parsed as."""

    index: int | None
    by: ParsedBy


def parse_choice(reply: str, choices: Sequence[str]) -> ParsedChoice:
    """Parse a reply as one of the choices: by its text, then a letter, then a unique substring.

    Text: The reply equals a choice after neutral normalisation.

    Letter: The reply is "B", "b" or "(B)", or begins with "B.", "B)" or "B:".

    Substring: Exactly one choice occurs in the reply at the start of a word. Endings may follow, as
    inflecting languages add them, but "12" does not contain "1". If two choices start at the same
    position, the longer one counts. Otherwise the reply may consist of whole words of exactly one
    choice.
    """
    text = normalise_neutral(reply)
    options = [normalise_neutral(choice) for choice in choices]
    if text and options.count(text) == 1:
        return ParsedChoice(index=options.index(text), by=ParsedBy.TEXT)
    if match := _LETTER.match(reply):
        index = string.ascii_lowercase.index(match[1].lower())
        if index < len(choices):
            return ParsedChoice(index=index, by=ParsedBy.LETTER)
    found = _match_substring(text, options)
    by = ParsedBy.NOTHING if found is None else ParsedBy.SUBSTRING
    return ParsedChoice(index=found, by=by)


def _match_substring(text: str, options: Sequence[str]) -> int | None:
    if not text:
        return None
    longest_at: dict[int, int] = {}
    for option in options:
        for start in _find_word_starts(option, text):
            longest_at[start] = max(longest_at.get(start, 0), len(option))
    spans = [(start, start + size) for start, size in longest_at.items()]
    found = {
        index
        for index, option in enumerate(options)
        for start in _find_word_starts(option, text)
        if not any(_is_inside((start, start + len(option)), span) for span in spans)
    }
    if not found:
        found = {index for index, option in enumerate(options) if _contains_words(option, text)}
    return found.pop() if len(found) == 1 else None


def _find_word_starts(needle: str, text: str) -> list[int]:
    """Return where `needle` starts a word; a number must not be followed by further digits."""
    ends_in_digit = needle[-1:].isdigit()
    return [
        start
        for start, end in _find_spans(needle, text)
        if not _is_joined(text, start)
        and not (ends_in_digit and (text[end : end + 1] or " ") in _IN_NUMBERS)
    ]


def _contains_words(text: str, words: str) -> bool:
    return any(
        not _is_joined(text, start) and not _is_joined(text, end)
        for start, end in _find_spans(words, text)
    )


def _find_spans(needle: str, text: str) -> list[tuple[int, int]]:
    """Return all occurrences, including overlapping ones."""
    if not needle:
        return []
    found = re.finditer(rf"(?={re.escape(needle)})", text)
    return [(match.start(), match.start() + len(needle)) for match in found]


def _is_joined(text: str, at: int) -> bool:
    """Return whether the characters before and at this position belong to one word or number."""
    return 0 < at < len(text) and all(
        is_in_word(letter) or letter in _IN_NUMBERS for letter in text[at - 1 : at + 1]
    )


def _is_inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return other[0] <= span[0] and span[1] <= other[1] and span != other
