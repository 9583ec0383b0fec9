"""Lookup of the answer rules of a language.

A language without rules of its own gets the neutral ones. The official VQA score does not use this
lookup: it applies its English rules to answers in any language.
"""

import dataclasses
import importlib
import itertools
import math
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

from core.config import load_config
from core.errors import ConfigError, unknown_name
from core.languages import ANSWERS, FOLDER, language_file
from evaluation.answers import languages
from evaluation.answers.rule import (
    NEUTRAL_RULES,
    WORD_RULES_VERSION,
    AnswerRule,
    AnswerRules,
    normalise_neutral,
    unify_numbers,
    with_dotless_i,
)

_MAX_FORMS = 256
_APOSTROPHES = ("'", "\u2019")
_DOTLESS_I = frozenset({"az", "crh", "gag", "kaa", "tr", "tt"})
"""Languages in Latin script whose lower case of I is \u0131."""
_AFTER_LOST_INITIAL = frozenset("aeiouwy\u00e2\u00ea\u00ee\u00f4\u00fblnr")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerFile:
    """Contents of `languages/CODE/answers.yaml`."""

    rule: str = ""
    """Name of a module of `evaluation.answers.languages`, which replaces all fields below."""
    numerals: list[str] = dataclasses.field(default_factory=list)
    """The words for 0, 1, 2 and so on."""
    more_numerals: dict[str, int] = dataclasses.field(default_factory=dict)
    """Other forms of number words."""
    percent_words: list[str] = dataclasses.field(default_factory=list)
    """Phrases after a number that mean percent, such as "por ciento"."""
    initial_changes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """How the beginning of a word may change, in Welsh "c" to "g" (cath, y gath). An empty string
    means that it disappears, which is only assumed before a vowel, l, n, r or w."""
    articles: list[str] = dataclasses.field(default_factory=list)
    """Words that are optional at the beginning of an answer. An article that ends with an
    apostrophe is joined to the word that follows."""


def rule_for(language: str, *, relaxed: bool = True, folder: Path = FOLDER) -> AnswerRule:
    """Return the answer rule of a language, or the neutral rule if it has no `answers.yaml`.

    Args:
        language: Language code such as "eu".
        relaxed: Also match definite and bare forms, if the language's rules support it.
        folder: Folder of the language files.

    Raises:
        ConfigError: If the file refers to rules that do not exist.
    """
    rules = rules_for(language, folder=folder)
    return rules.relaxed if relaxed else rules.strict


@cache
def coded_rules() -> dict[str, AnswerRules]:
    """Return the rules of every module of `evaluation.answers.languages` by module name."""
    return {
        module.name: importlib.import_module(f"{languages.__name__}.{module.name}").RULES
        for module in pkgutil.iter_modules(languages.__path__)
    }


@lru_cache(maxsize=64)
def rules_for(language: str, *, folder: Path = FOLDER) -> AnswerRules:
    """Return both rules of a language; see `rule_for`."""
    rules = _rules_of_file(language_file(language, ANSWERS, folder))
    return with_dotless_i(rules) if language.partition("-")[0] in _DOTLESS_I else rules


def _rules_of_file(path: Path) -> AnswerRules:
    if not path.is_file():
        return NEUTRAL_RULES
    file = load_config(AnswerFile, path)
    if not file.rule:
        return _rules_of_word_lists(_normalise_words(file, path))
    lists = dataclasses.replace(file, rule="")
    if lists != AnswerFile():
        raise ConfigError(
            f"{path}: rule '{file.rule}' replaces all word lists; remove the lists or the rule"
        )
    rules = coded_rules()
    if file.rule not in rules:
        raise ConfigError(f"{path}: {unknown_name('rule', file.rule, rules)}")
    return rules[file.rule]


def _normalise_words(file: AnswerFile, path: Path) -> AnswerFile:
    """Return the lists as answers are compared, in the same normal form.

    Raises:
        ConfigError: If a word could never occur in an answer, or stands for two numbers.
    """

    def clean(key: str, text: str, *, may_be_phrase: bool = False) -> str:
        word = normalise_neutral(text)
        if not word or (" " in word and not may_be_phrase):
            reason = "is several words" if word else "has no letters"
            raise ConfigError(f"{path}: {key}: '{text}' {reason}; answers are compared by single "
                              "words, so remove it")  # fmt: skip
        return word

    values: dict[str, int] = {}
    named = [("numerals", word, value) for value, word in enumerate(file.numerals)]
    named += [("more_numerals", *item) for item in file.more_numerals.items()]
    for key, text, value in named:
        word = clean(key, text)
        if values.setdefault(word, value) != value or value < 0:
            raise ConfigError(
                f"{path}: {key}: '{text}' stands for {value}, but also for {values[word]}; keep one"
                if value >= 0
                else f"{path}: {key}: '{text}' is {value}, expected 0 or more"
            )
    return AnswerFile(
        more_numerals=values,
        percent_words=[
            clean("percent_words", text, may_be_phrase=True) for text in file.percent_words
        ],
        initial_changes={
            clean("initial_changes", original): [
                clean(f"initial_changes.{original}", change) if change else "" for change in changes
            ]
            for original, changes in file.initial_changes.items()
        },
        articles=[
            clean("articles", text) + "'" * text.endswith(_APOSTROPHES) for text in file.articles
        ],
    )


def _rules_of_word_lists(file: AnswerFile) -> AnswerRules:
    numerals = {word: str(value) for word, value in file.more_numerals.items()}
    # A word that is an article as well (un, una) is a number only if it is the whole answer.
    numerals_in_text = {word: digits for word, digits in numerals.items()
                        if word not in file.articles}  # fmt: skip
    prefixes = [article if article.endswith("'") else f"{article} " for article in file.articles]
    # Applied after the numerals: "per cent" has become "per 100".
    percent = [
        " ".join(numerals_in_text.get(word, word) for word in normalise_neutral(phrase).split())
        for phrase in file.percent_words
    ]

    def normalise(text: str) -> str:
        words = normalise_neutral(text).split()
        known = numerals if len(words) == 1 else numerals_in_text
        joined = " ".join(known.get(word, word) for word in words)
        for phrase in percent:
            joined = re.sub(rf"(?<=\d) {re.escape(phrase)}(?!\S)", "%", joined)
        return unify_numbers(joined)

    def forms(answer: str) -> frozenset[str]:
        without_article = {answer, *(answer.removeprefix(prefix) for prefix in prefixes)} - {""}
        return frozenset(
            " ".join(numerals_in_text.get(word, word) for word in words)
            for text in without_article
            for words in _unchanged_words(text.split(), file.initial_changes)
        )

    return AnswerRules(
        strict=AnswerRule(normalise=normalise),
        relaxed=AnswerRule(normalise=normalise, forms=forms),
        version=WORD_RULES_VERSION,
    )


def _unchanged_words(
    words: Sequence[str], changes: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, ...]]:
    """Yield the words with every possible beginning before a change; long texts as they are."""
    possible = [_unchanged_forms(word, changes) for word in words]
    if math.prod(map(len, possible)) > _MAX_FORMS:
        possible = [[word] for word in words]
    yield from itertools.product(*possible)


def _unchanged_forms(word: str, changes: Mapping[str, Sequence[str]]) -> list[str]:
    return [word] + [
        original + word.removeprefix(changed)
        for original, results in changes.items()
        for changed in results
        if (word.startswith(changed) if changed else word[0] in _AFTER_LOST_INITIAL)
    ]
