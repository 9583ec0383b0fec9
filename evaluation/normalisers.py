"""How two answers are compared, per language: the registry of language-aware rules.

A language without a rule of its own gets the neutral one. The official VQA score does not come
through here: it applies its English rules to whatever language the answers are in.
"""

import dataclasses
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from core.errors import ConfigError

_INNER_MARKS = frozenset("'-")
_DECIMAL_MARKS = frozenset(".,")
_SYMBOLS = frozenset("=+<>`")
_TYPOGRAPHIC = str.maketrans({"\u2019": "'", "\u2018": "'", "\u2010": "-", "\u2011": "-"})


def _itself(answer: str) -> frozenset[str]:
    return frozenset({answer})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRule:
    """When two answers count as the same."""

    normalise: Callable[[str], str]
    """Raw text to canonical text."""
    forms: Callable[[str], frozenset[str]] = _itself
    """Canonical text to the set of its equivalent forms; two answers match if they share one."""

    def matches(self, prediction: str, answer: str) -> bool:
        """Whether two raw texts are the same answer; an empty prediction never is."""
        normalised = self.normalise(prediction)
        if not normalised:
            return False
        return not self.forms(normalised).isdisjoint(self.forms(self.normalise(answer)))


@lru_cache(maxsize=1 << 16)
def normalise_neutral(text: str) -> str:
    """NFC, lower-case, no punctuation, single spaces: what is safe in any language.

    An apostrophe or hyphen between letters or digits stays (l'home, TB-a), and so does a comma or
    full stop between digits (3,5).
    """
    letters = unicodedata.normalize("NFC", text).translate(_TYPOGRAPHIC).lower()
    padded = f" {letters} "
    kept = [
        letter if _is_kept(letter, padded[at], padded[at + 2]) else " "
        for at, letter in enumerate(letters)
    ]
    return " ".join("".join(kept).split())


def _is_kept(letter: str, before: str, after: str) -> bool:
    if letter in _INNER_MARKS:
        return before.isalnum() and after.isalnum()
    if letter in _DECIMAL_MARKS:
        return before.isdigit() and after.isdigit()
    if letter == "%":
        return True
    return letter not in _SYMBOLS and not unicodedata.category(letter).startswith("P")


_RULES: dict[str, tuple[AnswerRule, AnswerRule]] = {}
"""Language -> (strict rule, relaxed rule)."""

_NEUTRAL = AnswerRule(normalise=normalise_neutral)


def register(language: str, *, strict: AnswerRule, relaxed: AnswerRule | None = None) -> None:
    """Give a language its own rule.

    Raises:
        ConfigError: the language has one already.
    """
    if language in _RULES:
        raise ConfigError(f"language '{language}' has a normaliser already; keep one of the two")
    _RULES[language] = (strict, relaxed or strict)


def rule_for(language: str, *, relaxed: bool = True) -> AnswerRule:
    """The rule of a language, or the neutral one.

    Args:
        language: Code such as "eu".
        relaxed: Also match the definite and the bare form where the language's rule knows how.
    """
    strict, loose = _RULES.get(language, (_NEUTRAL, _NEUTRAL))
    return loose if relaxed else strict
