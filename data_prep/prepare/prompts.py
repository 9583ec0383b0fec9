"""How a language model is asked to translate into a language: `languages/CODE/translation.yaml`."""

import dataclasses
from pathlib import Path

from core.config import load_config
from core.errors import ConfigError
from core.languages import FOLDER, TRANSLATION, language_file, missing_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationPrompt:
    """System message and examples."""

    name: str
    """Of the language, in English."""
    system: str
    examples: tuple[tuple[str, str], ...]
    """(source, translation), shown before every text."""
    words: dict[str, str]
    """Texts with one translation, whatever the model says: yes, no."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Example:
    source: str
    translation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    name: str
    system: str
    examples: list[_Example]
    words: dict[str, str] = dataclasses.field(default_factory=dict)


def load_prompt(language: str, folder: Path = FOLDER) -> TranslationPrompt:
    """The prompt of a language.

    Raises:
        ConfigError: no such file, or a field missing in it.
    """
    path = language_file(language, TRANSLATION, folder)
    if not path.is_file():
        missing = "".join(f"\n  {n}: {w}" for n, w in missing_files(language, folder).items())
        raise ConfigError(
            f"no {path}; copy that of another language and translate its values "
            f"(docs/guides/new-language.md). '{language}' has no{missing}"
        )
    file = load_config(_File, path)
    return TranslationPrompt(
        name=file.name,
        system=file.system.strip(),
        examples=tuple((one.source, one.translation) for one in file.examples),
        words={source.casefold(): translation for source, translation in file.words.items()},
    )
