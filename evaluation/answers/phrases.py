"""Words and phrases of a language file, compared with replies.

A phrase matches whole words without regard to case, punctuation and apostrophes. In a pattern, `*`
at the end of a word stands for any ending ("irudi*": irudia, irudirik), `...` stands for up to
three words ("can't see ... image"), and a phrase with a full stop must end the reply ("no se.").
"""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from core.chat.characters import is_in_word
from core.errors import ConfigError
from evaluation.answers.rule import normalise_neutral

_GAP = "..."
_ENDING = "*"
_NOTHING = re.compile(r"(?!)")
_ANY_ENDING = r"\S*"
_UP_TO_THREE_WORDS = r"(?: \S+){0,3}"
_KEPT_MARKS = frozenset("'\u2019\u2018\u2032\u00b4`%$\u20ac\u00a3&+\u00b0")
_NUMBER_MARKS = frozenset(".,")
_HYPHENS = frozenset("-\u2010\u2011")


def plain_text(text: str) -> str:
    """Return the words of a text in lower case, without punctuation and apostrophes.

    The dotless \u0131 becomes i, because its capital letter is that of i in other languages.
    """
    return normalise_neutral(text).replace("'", "").replace("\u0131", "i")


def split_clauses(text: str) -> list[tuple[str, str]]:
    """Split a text at its punctuation into clauses, each with the marks before it.

    The marks before the first clause may be empty. Clauses without words are left out.
    """
    clauses: list[tuple[str, str]] = []
    marks = ""
    padded = f" {text} "
    is_mark = [_is_clause_mark(*padded[at : at + 3]) for at in range(len(text))]
    for is_between, group in itertools.groupby(range(len(text)), is_mark.__getitem__):
        part = "".join(text[at] for at in group)
        if is_between:
            marks += part
        elif plain_text(part):
            clauses.append((marks, part))
            marks = ""
    return clauses


def _is_clause_mark(before: str, letter: str, after: str) -> bool:
    """Return whether a character ends a clause; marks inside words and numbers do not."""
    if letter in _NUMBER_MARKS:
        return not (before.isdigit() and after.isdigit())
    if letter in _HYPHENS:
        return not (is_in_word(before) or is_in_word(after))
    is_punctuation = unicodedata.category(letter)[0] in "PS"
    return letter == "\n" or (is_punctuation and letter not in _KEPT_MARKS)


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
    is_last = phrase.endswith(".") and not phrase.endswith(_GAP)
    words = phrase.removesuffix("." * is_last).split()
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
    return expression + "$" * is_last


def phrase_words(phrases: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the words of each phrase."""
    return [tuple(plain_text(phrase).split()) for phrase in phrases]
