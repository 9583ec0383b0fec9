"""Checks of the folder of a language: every problem with its file, line and fix."""

import dataclasses
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from core.errors import IrudimenError
from core.languages import ANSWERS, DATA, FOLDER, PROMPTS, PURPOSES, TRANSLATION, language_file
from core.yaml_text import read_yaml
from data_prep.embedded.wordings import (
    FIELDS,
    FORMS_FILE,
    MODEL_LANGUAGE,
    QuestionKind,
    load_language,
)
from data_prep.new_language.slots import find_slots
from data_prep.new_language.template import TYPOLOGY
from data_prep.prepare.translation.prompts import load_prompt
from evaluation.answers.registry import rule_for
from evaluation.benchmarks.prompting import load_prompts

REQUIRED = (DATA, PROMPTS)
"""Files without which a grid in the language can't be trained and evaluated."""
_KEY_PART = re.compile(r"[^.\[\]]+")
_QUOTED = re.compile(r"'([^']+)'")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that has to be corrected."""

    path: Path
    line: int
    """Line number, from 1; 0 if the file is missing."""
    message: str
    """What is wrong and what to write."""
    is_required: bool
    """Whether a grid needs the file."""

    def describe(self) -> str:
        """Return the problem in one line."""
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.message}"


def check_folder(code: str, folder: Path = FOLDER) -> list[Problem]:
    """Return the problems of the files of a language, in the order of files and lines.

    Args:
        code: Language code.
        folder: Folder of all languages.
    """
    problems: list[Problem] = []
    for name in (DATA, PROMPTS, ANSWERS, TRANSLATION, TYPOLOGY):
        path = language_file(code, name, folder)
        found = list(_check_file(code, path)) if path.is_file() else [(0, _missing(code, name))]
        problems += [
            Problem(path=path, line=line, message=message, is_required=name in REQUIRED)
            for line, message in sorted(found)
        ]
    return problems


def _missing(code: str, name: str) -> str:
    purpose = PURPOSES.get(name, "script and family; needed by experiments.languages")
    return f"is missing ({purpose}); `python -m data_prep.new_language {code}` writes it"


def _check_file(code: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, message) of every problem of a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = yaml.compose(text, yaml.SafeLoader)
    except UnicodeDecodeError:
        yield 1, "is not UTF-8; save it as UTF-8"
        return
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        before = text[: getattr(error, "position", 0)]  # of a character that YAML forbids
        line = (mark.line if mark else before.count("\n")) + 1
        reason = getattr(error, "problem", None) or getattr(error, "reason", error)
        yield line, f"is not YAML ({reason}); correct the line"
        return
    found = [
        (slot.line, f'"" is empty; write the translation of: {slot.english}')
        for slot in find_slots(text)
        if not slot.is_optional
    ]
    if path.name == DATA:
        found += _check_wordings(path, tree)
    if not found and (message := _reader_error(code, path)):
        found = [(_line_of(message, tree, text), message)]
    yield from found


def _reader_error(code: str, path: Path) -> str:
    """Return the error of the code that uses a file, or ""."""
    folder = path.parents[1]
    try:
        if path.name == DATA:
            load_language(code, folder)
        elif path.name == PROMPTS:
            load_prompts([code], style="instructed", folder=folder)
        elif path.name == ANSWERS:
            rule_for(code, folder=folder)
        elif path.name == TRANSLATION:
            load_prompt(code, folder)
        else:
            return _about_error(path)
    except IrudimenError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def _about_error(path: Path) -> str:
    about = read_yaml(path)
    for key in ("script", "family", "relatedness"):
        if not isinstance(about, dict) or about.get(key) in (None, ""):
            return f"'{key}' is missing; give it a value"
    try:
        float(about["relatedness"])
    except (TypeError, ValueError):
        return f"'relatedness' is {about['relatedness']!r}; expected 0, 1 or 2"
    return ""


def _check_wordings(path: Path, tree: Any) -> Iterator[tuple[int, str]]:
    """Yield what differs from the English file in number or placeholders."""
    english = read_yaml(language_file(MODEL_LANGUAGE, DATA, FOLDER))
    questions = _child(tree, "questions")
    forms = path.with_name(FORMS_FILE).is_file()
    for kind in QuestionKind:
        node = _child(questions, kind.value)
        if not isinstance(node, yaml.SequenceNode):
            continue  # reported by the reader of the file
        expected = english["questions"][kind.value]
        if len(node.value) != len(expected):
            yield (
                max(node.start_mark.line, 1),  # the key is above the first wording
                f"{kind} has {len(node.value)} wordings, English has {len(expected)}; "
                "translate each, in the same order",
            )
        for one in _scalars(node):
            found = _placeholders(one.value)
            plain = {"name" if forms and name.startswith("name_") else name for name in found}
            if one.value and plain != FIELDS[kind]:
                names = " ".join(f"{{{name}}}" for name in sorted(FIELDS[kind])) or "none"
                yield (
                    one.start_mark.line + 1,
                    f"'{one.value}' has other placeholders than {kind} needs: {names}",
                )


def _placeholders(text: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError:
        return {"?"}


def _child(node: Any, key: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == key), None)
    if isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
        return node.value[int(key)]
    return None


def _has_keys(node: Any) -> bool:
    return isinstance(node, yaml.MappingNode)


def _scalars(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _scalars(one)


def _line_of(message: str, tree: Any, text: str) -> int:
    """Return the line that a message is about: that of a key or text that it names."""
    key = message.partition(" ")[0].rstrip(":").strip("'")
    for name in (*_QUOTED.findall(message), key):
        node, line = tree, 0
        for part in _KEY_PART.findall(name):
            child = _child(node, part)
            if child is None:
                break
            keys = [key for key, value in node.value if value is child] if _has_keys(node) else []
            line = (keys or [child])[0].start_mark.line + 1
            node = child
        if line:
            return line
        shown = next((n for n, row in enumerate(text.splitlines(), 1) if name in row), 0)
        if shown:
            return shown
    return 1
