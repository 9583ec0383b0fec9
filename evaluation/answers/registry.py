"""How two answers are compared, per language: the registry of language-aware rules.

A language without a rule of its own gets the neutral one. The official VQA score does not come
through here: it applies its English rules to whatever language the answers are in.
"""

import dataclasses
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from core.chat.characters import ASCII_NUMBERS, INVISIBLE, is_in_word
from core.config import load_config
from core.errors import ConfigError, unknown_name
from core.languages import ANSWERS, FOLDER, language_file

_INNER_MARKS = frozenset("'-")
_DECIMAL_MARKS = frozenset(".,")
_SYMBOLS = frozenset("=+<>`")
_ONE_FORM = (
    str.maketrans({"\u2019": "'", "\u2018": "'", "\u2010": "-", "\u2011": "-"})
    | ASCII_NUMBERS
    | INVISIBLE
)


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
    full stop between digits (3,5). Digits of any script become 0 to 9.
    """
    letters = unicodedata.normalize("NFC", text).translate(_ONE_FORM).lower()
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


_RULES: dict[str, tuple[AnswerRule, AnswerRule]] = {}
"""Name of a rule in code -> (strict, relaxed)."""

_NEUTRAL = AnswerRule(normalise=normalise_neutral)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerFile:
    """What `languages/CODE/answers.yaml` may say."""

    rule: str = ""
    """A rule in code instead of all below."""
    numerals: list[str] = dataclasses.field(default_factory=list)
    """The words for 0, 1, 2 and so on."""
    more_numerals: dict[str, int] = dataclasses.field(default_factory=dict)
    """Other forms."""
    articles: list[str] = dataclasses.field(default_factory=list)
    """Words that may be missing at an answer's beginning; one with an apostrophe sticks to what
    follows."""


def register(name: str, *, strict: AnswerRule, relaxed: AnswerRule | None = None) -> None:
    """Give a rule in code its name, for `answers.yaml`.

    Raises:
        ConfigError: the name is taken.
    """
    if name in _RULES:
        raise ConfigError(f"there is a rule '{name}' already; keep one of the two")
    _RULES[name] = (strict, relaxed or strict)


def rule_for(language: str, *, relaxed: bool = True, folder: Path = FOLDER) -> AnswerRule:
    """The rule of a language, or the neutral one where it has no `answers.yaml`.

    Args:
        language: Code such as "eu".
        relaxed: Also match the definite and the bare form where the language's rule knows how.
        folder: of the languages.

    Raises:
        ConfigError: the file names a rule that does not exist.
    """
    strict, loose = _rules_of(language, folder)
    return loose if relaxed else strict


@lru_cache(maxsize=64)
def _rules_of(language: str, folder: Path) -> tuple[AnswerRule, AnswerRule]:
    path = language_file(language, ANSWERS, folder)
    if not path.is_file():
        return _NEUTRAL, _NEUTRAL
    file = load_config(AnswerFile, path)
    if file.rule:
        from evaluation.answers import (
            basque,  # noqa: F401 - they register themselves here
            english,  # noqa: F401 - they register themselves here
        )

        if file.rule not in _RULES:
            raise ConfigError(f"{path}: {unknown_name('rule', file.rule, _RULES)}")
        return _RULES[file.rule]
    numerals = {word: str(value) for value, word in enumerate(file.numerals)}
    numerals |= {word: str(value) for word, value in file.more_numerals.items()}

    def normalise(text: str) -> str:
        return " ".join(numerals.get(word, word) for word in normalise_neutral(text).split())

    def forms(answer: str) -> frozenset[str]:
        bare = {answer.removeprefix(_with_gap(article)) for article in file.articles}
        return frozenset({answer, *filter(None, bare)})

    return AnswerRule(normalise=normalise), AnswerRule(normalise=normalise, forms=forms)


def _with_gap(article: str) -> str:
    return article if article.endswith("'") else f"{article} "
