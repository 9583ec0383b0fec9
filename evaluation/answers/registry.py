"""Lookup of the answer rules of a language.

A language without rules of its own gets the neutral ones. The official VQA score does not use this
lookup: it applies its English rules to answers in any language.
"""

import dataclasses
import importlib
import pkgutil
from functools import cache, lru_cache
from pathlib import Path

from core.config import load_config
from core.errors import ConfigError, unknown_name
from core.languages import ANSWERS, FOLDER, language_file
from evaluation.answers import languages
from evaluation.answers.rule import NEUTRAL_RULES, AnswerRule, AnswerRules, normalise_neutral


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerFile:
    """Contents of `languages/CODE/answers.yaml`."""

    rule: str = ""
    """Name of a module of `evaluation.answers.languages`, which replaces all fields below."""
    numerals: list[str] = dataclasses.field(default_factory=list)
    """The words for 0, 1, 2 and so on."""
    more_numerals: dict[str, int] = dataclasses.field(default_factory=dict)
    """Other forms of number words."""
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
    rules = _load_rules(language, folder)
    return rules.relaxed if relaxed else rules.strict


@cache
def coded_rules() -> dict[str, AnswerRules]:
    """Return the rules of every module of `evaluation.answers.languages` by module name."""
    return {
        module.name: importlib.import_module(f"{languages.__name__}.{module.name}").RULES
        for module in pkgutil.iter_modules(languages.__path__)
    }


@lru_cache(maxsize=64)
def _load_rules(language: str, folder: Path) -> AnswerRules:
    path = language_file(language, ANSWERS, folder)
    if not path.is_file():
        return NEUTRAL_RULES
    file = load_config(AnswerFile, path)
    if not file.rule:
        return _rules_of_word_lists(file)
    rules = coded_rules()
    if file.rule not in rules:
        raise ConfigError(f"{path}: {unknown_name('rule', file.rule, rules)}")
    return rules[file.rule]


def _rules_of_word_lists(file: AnswerFile) -> AnswerRules:
    numerals = {word: str(value) for value, word in enumerate(file.numerals)}
    numerals |= {word: str(value) for word, value in file.more_numerals.items()}
    prefixes = [article if article.endswith("'") else f"{article} " for article in file.articles]

    def normalise(text: str) -> str:
        return " ".join(numerals.get(word, word) for word in normalise_neutral(text).split())

    def forms(answer: str) -> frozenset[str]:
        without_article = {answer.removeprefix(prefix) for prefix in prefixes}
        return frozenset({answer, *filter(None, without_article)})

    return AnswerRules(
        strict=AnswerRule(normalise=normalise),
        relaxed=AnswerRule(normalise=normalise, forms=forms),
    )
