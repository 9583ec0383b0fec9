"""Words and phrases of a language file, compared with replies.

A phrase matches whole words without regard to case, punctuation and apostrophes. In a pattern, `*`
at the end of a word stands for any ending ("irudi*": irudia, irudirik), and `...` stands for up to
three words ("can't see ... image").
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from core.errors import ConfigError
from evaluation.answers.rule import normalise_neutral

_GAP = "..."
_ENDING = "*"
_NOTHING = re.compile(r"(?!)")
_ANY_ENDING = r"\S*"
_UP_TO_THREE_WORDS = r"(?: \S+){0,3}"
_CLAUSE_MARKS = re.compile(
    r"(?:(?<!\d)[.,]"
    r"|[.,](?!\d)"
    "|[^\\w\\s.,'\u2019\u2018%$\u20ac\u00a3&+\u00b0-]"
    r"|[_\n]"
    r"|(?<!\S)-+(?!\S)"
    "|[\u2013\u2014])+"
)
"""Marks between clauses; a comma or full stop between digits belongs to a number."""


def plain_text(text: str) -> str:
    """Return the words of a text in lower case, without punctuation and apostrophes."""
    return normalise_neutral(text).replace("'", "")


def split_clauses(text: str) -> list[tuple[str, str]]:
    """Split a text at its punctuation into clauses, each with the marks before it.

    The marks before the first clause may be empty. Clauses without words are left out.
    """
    clauses, marks, start = [], "", 0
    for match in [*_CLAUSE_MARKS.finditer(text), None]:
        clause = text[start : match.start() if match else len(text)]
        if plain_text(clause):
            clauses.append((marks, clause))
            marks = ""
        if match:
            marks, start = marks + match[0], match.end()
    return clauses


@lru_cache(maxsize=256)
def compile_phrases(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Return an expression that finds any of some phrases in `plain_text`.

    Raises:
        ConfigError: If a word of a phrase has no letters.
    """
    if not phrases:
        return _NOTHING
    longest_first = sorted({_expression(phrase) for phrase in phrases}, key=len, reverse=True)
    return re.compile(f"(?<!\\S)(?:{'|'.join(longest_first)})(?!\\S)")


def _expression(phrase: str) -> str:
    words = phrase.split()
    if not words or _GAP in (words[0], words[-1]):
        raise ConfigError(f"phrase '{phrase}' must begin and end with a word")
    expression = ""
    for word in words:
        if word == _GAP:
            expression += _UP_TO_THREE_WORDS
            continue
        stem = plain_text(word.removesuffix(_ENDING))
        if not stem:
            raise ConfigError(f"phrase '{phrase}': '{word}' has no letters")
        expression += " " * bool(expression) + re.escape(stem)
        expression += _ANY_ENDING * word.endswith(_ENDING)
    return expression


def phrase_words(phrases: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the words of each phrase."""
    return [tuple(plain_text(phrase).split()) for phrase in phrases]
