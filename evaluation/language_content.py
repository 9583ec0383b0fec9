"""The content of language files and answer rules that decides the result of an evaluation.

It is part of the address of the evaluation, so that a corrected word or rule is applied to finished
grids as well. Files are read as configuration: comments and order of keys do not matter.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.config import load_config, to_plain
from core.languages import ANSWERS, FOLDER, PROMPTS, language_file
from evaluation.answers.languages import english
from evaluation.answers.registry import AnswerFile, rules_for
from evaluation.benchmarks.prompting import PromptFile

_SCHEMAS: Mapping[str, type[PromptFile] | type[AnswerFile]] = {
    PROMPTS: PromptFile,
    ANSWERS: AnswerFile,
}


def language_content(
    languages: Iterable[str], style: str, *, wordings: Sequence[str] = ()
) -> dict[str, object]:
    """Return name -> content of everything that an evaluation reads about its languages.

    Args:
        languages: Languages of the questions.
        style: Style of the prompts; the templates of other styles are left out.
        wordings: Further styles with which questions are asked.

    Raises:
        ConfigError: If a file can't be read.
    """
    # Official scores apply the English rules to answers in any language.
    content: dict[str, object] = {"official answer rules": english.RULES.version}
    for language in languages:
        prompts = _file_content(PROMPTS, language)
        styles = prompts["styles"]
        prompts["styles"] = styles.get(style, {})
        if wordings:
            prompts["wordings"] = {name: styles.get(name, {}) for name in wordings}
        answers = _file_content(ANSWERS, language)
        version = rules_for(language, folder=FOLDER).version
        content[f"languages/{language}/{PROMPTS}"] = prompts
        content[f"languages/{language}/{ANSWERS}"] = answers | {"version": version}
    return content


def _file_content(name: str, language: str) -> dict[str, Any]:
    """Return the content of a file, or of an empty one where it is missing."""
    path = language_file(language, name, FOLDER)
    if not path.is_file():
        return dict(to_plain(_SCHEMAS[name]()))
    return dict(_parse_file(name, path, path.read_bytes()))


@lru_cache(maxsize=64)
def _parse_file(name: str, path: Path, content: bytes) -> Any:
    """Parse a file; `content` is the key under which every cell of a grid finds it again."""
    del content
    return to_plain(load_config(_SCHEMAS[name], path))
