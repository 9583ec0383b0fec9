"""Translation prompts for language models, read from `languages/CODE/translation.yaml`."""

import dataclasses
from pathlib import Path

from core.config import load_config
from core.errors import ConfigError
from core.languages import FOLDER, TRANSLATION, language_file, missing_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationPrompt:
    """System message and few-shot examples for translation into a language."""

    name: str
    """English name of the language."""
    system: str
    examples: tuple[tuple[str, str], ...]
    """(source, translation) pairs that precede every text."""
    words: dict[str, str]
    """Texts with a fixed translation, such as yes and no, for which no model is called."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TranslationExample:
    source: str
    translation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TranslationFile:
    name: str
    system: str
    examples: list[_TranslationExample]
    words: dict[str, str] = dataclasses.field(default_factory=dict)


def load_prompt(language: str, folder: Path = FOLDER) -> TranslationPrompt:
    """Load the translation prompt of a language.

    Raises:
        ConfigError: If the file or one of its fields is missing.
    """
    path = language_file(language, TRANSLATION, folder)
    if not path.is_file():
        missing = "".join(f"\n  {n}: {w}" for n, w in missing_files(language, folder).items())
        raise ConfigError(
            f"{path} is missing; copy the file of another language and translate its values "
            f"(docs/guides/new-language.md). Missing files of '{language}':{missing}"
        )
    file = load_config(_TranslationFile, path)
    texts = {"name": file.name, "system": file.system}
    for number, one in enumerate(file.examples):
        texts |= {f"examples[{number}].{key}": text for key, text in vars(one).items()}
    texts |= {f"words.{source}": translation for source, translation in file.words.items()}
    if empty := [key for key, text in texts.items() if not text.strip()]:
        raise ConfigError(f"{path}: {empty[0]} is empty; give it a text or remove it")
    return TranslationPrompt(
        name=file.name,
        system=file.system.strip(),
        examples=tuple((one.source, one.translation) for one in file.examples),
        words={source.casefold(): translation for source, translation in file.words.items()},
    )
