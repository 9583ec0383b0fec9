"""Rules for comparing two answers, and the normalisation that is safe in any language."""

import dataclasses
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from core.chat.characters import ASCII_NUMBERS, INVISIBLE, is_in_word

_INNER_MARKS = frozenset("'-")
_DECIMAL_MARKS = frozenset(".,")
_SYMBOLS = frozenset("=+<>")
_APOSTROPHES = "\u2018\u2019\u201b\u2032\u00b4`\u02b9\u02bb\u02bc\u02bd\ua78c\uff07"
"""Quotation marks, accents and letters that stand for an apostrophe: Uzbek o\u02bbn, Breton
c\u02bchoar and Ukrainian are typed with any of them."""
_LIGATURES = {
    code: unicodedata.normalize("NFKC", chr(code)).replace("\u02bc", "'")
    for code in (*range(0x100, 0x250), *range(0xFB00, 0xFB07))
    if unicodedata.decomposition(chr(code)).startswith("<compat>")
}
"""Latin letters that are typed as several: the Dutch \u0133, the Croatian \u01c6, \ufb01."""
_SOFT_DOT = re.compile("(?<=[ij\u012f])\u0307")
"""The dot that Lithuanian dictionaries keep below an accent; other texts leave it out."""
_CANONICAL_CHARACTERS = (
    dict.fromkeys(map(ord, _APOSTROPHES), "'")
    | _LIGATURES
    | str.maketrans({"\u2010": "-", "\u2011": "-", "\u0130": "i"})
    | ASCII_NUMBERS
    | INVISIBLE
)


def _only_itself(answer: str) -> frozenset[str]:
    return frozenset({answer})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRule:
    """Decides whether two answers count as the same."""

    normalise: Callable[[str], str]
    """Maps raw text to canonical text."""
    forms: Callable[[str], frozenset[str]] = _only_itself
    """Maps canonical text to its equivalent forms; two answers match if they share a form."""

    def matches(self, prediction: str, answer: str) -> bool:
        """Return whether two raw texts are the same answer; an empty prediction never matches."""
        normalised = self.normalise(prediction)
        if not normalised:
            return False
        return not self.forms(normalised).isdisjoint(self.forms(self.normalise(answer)))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRules:
    """The two rules of a language."""

    strict: AnswerRule
    relaxed: AnswerRule
    """Also matches forms that a reader would not distinguish, such as definite and bare forms."""
    version: int = 1
    """Part of the address of every evaluation in the language. Raise it in the rules of a language
    when a change of their code changes which answers match."""


@lru_cache(maxsize=1 << 16)
def normalise_neutral(text: str) -> str:
    """Normalise text in a way that is safe in any language.

    Applies NFC, ignores case (also between ß and ss, and of the Greek final sigma), removes
    punctuation and collapses white space. An apostrophe or hyphen between letters or digits is kept
    (l'home, TB-a), and so is a comma or full stop between digits (3,5). Digits of any script become
    0 to 9.
    """
    folded = unicodedata.normalize("NFC", text).translate(_CANONICAL_CHARACTERS).casefold()
    letters = unicodedata.normalize("NFC", _SOFT_DOT.sub("", folded))
    padded = f" {letters} "
    kept = [
        letter if _is_kept(letter, padded[at], padded[at + 2]) else " "
        for at, letter in enumerate(letters)
    ]
    return " ".join("".join(kept).split())


def _is_kept(letter: str, before: str, after: str) -> bool:
    if letter in _INNER_MARKS:
        return is_in_word(before) and is_in_word(after)
    if letter in _DECIMAL_MARKS:
        return before.isdigit() and after.isdigit()
    if letter == "%":
        return True
    return letter not in _SYMBOLS and not unicodedata.category(letter).startswith("P")


_THOUSANDS = re.compile(
    r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3})+(?![\d.,])|(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d.,])"
)
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d+)(?![\d.,])")
_PERCENT_SIGN = re.compile(r"% ?(\d+(?:\.\d+)?)(?![\d.])|(\d+(?:\.\d+)?) ?%")


def unify_numbers(text: str) -> str:
    """Write the numbers of normalised text in one way: "3,5" as "3.5", "1.000" as "1000".

    A percent sign is joined to the end of its number ("%50", "50 %": "50%"). Languages differ in
    the decimal mark, and models use either one in any language. Groups of three digits are taken
    for thousands, so "1.000" is never a decimal number.
    """
    text = _THOUSANDS.sub(lambda match: re.sub("[.,]", "", match[0]), text)
    text = _DECIMAL_COMMA.sub(r"\1.\2", text)
    return _PERCENT_SIGN.sub(lambda match: f"{match[1] or match[2]}%", text)


def _normalise_with_numbers(text: str) -> str:
    return unify_numbers(normalise_neutral(text))


def with_dotless_i(rules: AnswerRules) -> AnswerRules:
    """Return rules whose lower case of I is \u0131, as in Turkish and Azerbaijani."""

    def dotless(rule: AnswerRule) -> AnswerRule:
        def normalise(text: str) -> str:
            return rule.normalise(unicodedata.normalize("NFC", text).replace("I", "\u0131"))

        return dataclasses.replace(rule, normalise=normalise)

    return dataclasses.replace(rules, strict=dotless(rules.strict), relaxed=dotless(rules.relaxed))


_NEUTRAL_RULE = AnswerRule(normalise=_normalise_with_numbers)
WORD_RULES_VERSION = 2
"""Version of the neutral rules and of those of word lists."""
NEUTRAL_RULES = AnswerRules(strict=_NEUTRAL_RULE, relaxed=_NEUTRAL_RULE, version=WORD_RULES_VERSION)
