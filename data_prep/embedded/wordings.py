"""Wordings of a language: questions, number words and category words, read from one file.

A new language needs a YAML file, `languages/CODE/data.yaml`; see docs/guides/new-language.md.
A language that inflects names has a table of their forms next to it.
"""

import csv
import dataclasses
import string
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.errors import ConfigError, DataError, unknown_name
from core.languages import DATA, FOLDER, language_file
from core.yaml_text import read_yaml

MODEL_LANGUAGE = "en"


class QuestionKind(StrEnum):
    """Kinds of questions; the value is the key in the language files."""

    NAME = "name"
    IS_SHOWN = "is_shown"
    IS_CATEGORY = "is_category"
    CATEGORY = "category"
    CHOICE = "choice"
    SCENE_CHOICE = "scene_choice"
    COUNT_THINGS = "count_things"
    COUNT_NAME = "count_name"
    POSITION = "position"
    NEIGHBOUR = "neighbour"
    CAPTION_CHECK = "caption_check"
    """Whether something is shown, in wordings of caption checks that training has."""
    CAPTION_CHECK_UNSEEN = "caption_check_unseen"
    """Whether something is shown, in wordings that only the benchmark has."""
    DESCRIPTION = "description"
    """Which of the descriptions listed after the question fits a photograph."""


FIELDS: dict[QuestionKind, frozenset[str]] = {
    QuestionKind.NAME: frozenset(),
    QuestionKind.IS_SHOWN: frozenset({"name"}),
    QuestionKind.IS_CATEGORY: frozenset({"category"}),
    QuestionKind.CATEGORY: frozenset(),
    QuestionKind.CHOICE: frozenset("abcd"),
    QuestionKind.SCENE_CHOICE: frozenset("abcd"),
    QuestionKind.COUNT_THINGS: frozenset(),
    QuestionKind.COUNT_NAME: frozenset({"name"}),
    QuestionKind.POSITION: frozenset({"place"}),
    QuestionKind.NEIGHBOUR: frozenset({"relation", "name"}),
    QuestionKind.CAPTION_CHECK: frozenset({"name"}),
    QuestionKind.CAPTION_CHECK_UNSEEN: frozenset({"name"}),
    QuestionKind.DESCRIPTION: frozenset(),
}
"""Placeholders of each kind of question; a wording must use exactly these. `{name}` may be replaced
by a form of the name from the language's table, such as `{name_genitive}`."""

FORMS_FILE = "forms.tsv"
"""Table of a language folder: code points, the name, and its forms, one per further column."""

PLACES = ("top_left", "top_right", "bottom_left", "bottom_right", "left", "right", "top", "bottom")
RELATIONS = ("left_of", "right_of", "above", "below")
CATEGORIES = (
    "accessory",
    "animal",
    "clothing",
    "device",
    "drink",
    "food",
    "game",
    "household",
    "instrument",
    "nature",
    "place",
    "plant",
    "reading",
    "tool",
    "vehicle",
)
MAX_COUNT = 4
NUM_CONCEPTS = 240
"""Concepts of a full build."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """A template that agrees in number with the name in it."""

    singular: str
    plural: str
    """The template for plural names; equal to `singular` if number makes no difference."""

    def agree(self, *, is_plural: bool) -> str:
        """Return the template for a name of the given number."""
        return self.plural if is_plural else self.singular


_OPTIONAL_KEY = "help"
_Phrase = str | list[str]
"""A phrase, or its variants for singular and plural names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WordingFile:
    """Types of the keys of `languages/CODE/data.yaml`, so that every word in it stays a text."""

    name: str
    cldr: str
    help: dict[str, str] | None
    article_endings: list[str]
    yes: str
    no: str
    numbers: list[str]
    categories: dict[str, list[str]]
    places: dict[str, list[str]]
    relations: dict[str, _Phrase]
    questions: dict[str, list[_Phrase]]
    not_answers: list[str]
    synonyms: dict[str, list[str]]
    plural: list[str]
    names: dict[str, str]
    odd_keywords: dict[str, list[str]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """A validated language file."""

    code: str
    name: str
    cldr: str
    """CLDR locale of the names."""
    help_package: str | None
    """Debian package with the running text, or None."""
    help_folder: str
    article_endings: tuple[str, ...]
    yes: str
    no: str
    numbers: tuple[str, ...]
    """Words for 1 to MAX_COUNT."""
    categories: dict[str, tuple[str, str]]
    """Key -> (answer, phrase inside a question)."""
    places: dict[str, tuple[str, str]]
    """Key -> (phrase inside a question, label in a list)."""
    relations: dict[str, Wording]
    questions: dict[QuestionKind, tuple[Wording, ...]]
    not_answers: frozenset[str]
    synonyms: dict[str, tuple[str, ...]]
    plural: frozenset[str] = frozenset()
    """Code points of the concepts whose name is plural."""
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    """Code points -> name that replaces a wrong one in CLDR."""
    odd_keywords: dict[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    """Code points -> keywords that are not answers for this concept."""
    forms: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """Code points -> column of the table of forms -> text; the column `name` is the name itself."""


def load_language(code: str, folder: Path | None = None) -> Language:
    """Read and validate a language file.

    Args:
        code: Language code.
        folder: Folder of all languages; None for that of the repository.

    Raises:
        DataError: If the file or one of its entries is missing or invalid.
    """
    path = language_file(code, DATA, folder or FOLDER)
    if not path.is_file():
        raise DataError(
            f"no wordings for language '{code}' in {path}; `python -m data_prep.new_language "
            f"{code}` writes it"
        )
    try:
        raw = read_yaml(path, _WordingFile)
    except ConfigError as error:
        raise DataError(str(error)) from error
    reader = _LanguageFileReader(
        path=path,
        raw=raw or {},
        forms=_read_forms(path.with_name(FORMS_FILE)),
    )
    help_pages = reader.get(_OPTIONAL_KEY) and {
        key: reader.get(_OPTIONAL_KEY, key) for key in ("package", "folder")
    }
    reader.check_texts(reader.raw, "")
    language = Language(
        code=code,
        name=reader.get("name"),
        cldr=reader.get("cldr"),
        help_package=help_pages["package"] if help_pages else None,
        help_folder=help_pages["folder"] if help_pages else "",
        article_endings=tuple(reader.get("article_endings")),
        yes=reader.get("yes"),
        no=reader.get("no"),
        numbers=tuple(reader.get("numbers")),
        categories=reader.pairs("categories", CATEGORIES),
        places=reader.pairs("places", PLACES),
        relations={key: reader.agreeing(reader.get("relations", key)) for key in RELATIONS},
        questions={kind: reader.wordings(kind) for kind in QuestionKind},
        not_answers=frozenset(word.casefold() for word in reader.get("not_answers")),
        synonyms={key: tuple(words) for key, words in reader.get("synonyms").items()},
        plural=frozenset(reader.raw.get("plural") or ()),
        names=dict(reader.raw.get("names") or {}),
        odd_keywords={
            key: frozenset(words) for key, words in (reader.raw.get("odd_keywords") or {}).items()
        },
        forms=reader.forms,
    )
    if len(language.numbers) != MAX_COUNT:
        raise DataError(f"{path}: numbers {language.numbers}, expected {MAX_COUNT} words")
    return language


def load_languages(codes: list[str]) -> tuple[Language, ...]:
    """Read several language files and check that their wordings correspond.

    Raises:
        DataError: If a language is repeated, a file is invalid, or wordings do not correspond.
    """
    if len(set(codes)) != len(codes) or not codes:
        raise DataError(f"languages {codes}: name at least one language, and each only once")
    languages = tuple(load_language(code) for code in codes)
    model = load_language(MODEL_LANGUAGE)
    for language in languages:
        for kind, wordings in language.questions.items():
            if len(wordings) != len(model.questions[kind]):
                raise DataError(
                    f"{language_file(language.code, DATA, FOLDER)}: {len(wordings)} wordings of "
                    f"'{kind}', {MODEL_LANGUAGE} has {len(model.questions[kind])}; translate each"
                )
    return languages


def _read_forms(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8 ({error}); save it again") from error
    forms: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        if not all(row.values()) or None in row:
            raise DataError(f"{path}, line {number}: {row}; expected text in every column")
        if not {"codepoints", "name"} <= row.keys():
            columns = ", ".join(row)
            raise DataError(
                f"{path} has the columns {columns}; expected codepoints, name and forms of the "
                "name, separated by tabs"
            )
        codepoints = row.pop("codepoints")
        if codepoints in forms:
            raise DataError(f"{path}, line {number}: {codepoints} is repeated; keep one line")
        forms[codepoints] = row
    return forms


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _LanguageFileReader:
    path: Path
    raw: dict[str, Any]
    forms: dict[str, dict[str, str]]

    def get(self, *keys: str) -> Any:
        node: Any = self.raw
        for depth, key in enumerate(keys):
            if not isinstance(node, dict) or key not in node:
                missing = ".".join(keys[: depth + 1])
                raise DataError(
                    f"{self.path}: '{missing}' is missing; copy it from "
                    f"{language_file(MODEL_LANGUAGE, DATA, FOLDER)} and translate it"
                )
            node = node[key]
        if node is None and keys != (_OPTIONAL_KEY,):
            raise DataError(f"{self.path}: '{'.'.join(keys)}' is empty; give it a value")
        return node

    def check_texts(self, node: Any, key: str) -> None:
        """Reject texts without a letter or digit, which nobody could read."""
        if isinstance(node, dict):
            for name, value in node.items():
                self.check_texts(value, f"{key}.{name}".lstrip("."))
        elif isinstance(node, list):
            for number, value in enumerate(node):
                self.check_texts(value, f"{key}[{number}]")
        elif isinstance(node, str) and not node.strip():
            raise DataError(f"{self.path}: '{key}' is empty; give it a text or remove it")

    def pairs(self, key: str, known: tuple[str, ...]) -> dict[str, tuple[str, str]]:
        found = self.get(key)
        for name in found:
            if name not in known:
                raise DataError(f"{self.path}: {unknown_name(key, str(name), known)}")
        return {name: self._read_pair(key, name) for name in known}

    def agreeing(self, value: Any) -> Wording:
        match value:
            case str():
                return Wording(singular=value, plural=value)
            case [str() as singular, str() as plural]:
                return Wording(singular=singular, plural=plural)
        raise DataError(
            f"{self.path}: {value!r}; expected a phrase, or a list of its singular and its plural"
        )

    def wordings(self, kind: QuestionKind) -> tuple[Wording, ...]:
        wordings = tuple(self.agreeing(value) for value in self.get("questions", kind.value))
        for wording in wordings:
            for template in (wording.singular, wording.plural):
                self._check_placeholders(kind, template)
        if not wordings:
            raise DataError(
                f"{self.path}: '{kind}' has no wordings; translate those of "
                f"{language_file(MODEL_LANGUAGE, DATA, FOLDER)}"
            )
        return wordings

    def _check_placeholders(self, kind: QuestionKind, template: str) -> None:
        columns = set(next(iter(self.forms.values()), {}))
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise DataError(
                f"{self.path}: '{template}' ({kind}): {error}; a placeholder is a name in braces, "
                "such as {name}"
            ) from error
        blanks = frozenset(
            "name" if name.removeprefix("name_") in columns else name
            for _, name, _, _ in parsed
            if name is not None
        )
        if blanks != FIELDS[kind]:
            raise DataError(
                f"{self.path}: '{template}' ({kind}) has the placeholders {sorted(blanks)}, "
                f"expected {sorted(FIELDS[kind])}; declined names need {FORMS_FILE}"
            )

    def _read_pair(self, key: str, name: str) -> tuple[str, str]:
        match value := self.get(key, name):
            case [answer, phrase]:
                return answer, phrase
        raise DataError(f"{self.path}: {key}.{name} is {value!r}, expected a list of two phrases")
