"""Checks of the texts of benchmark items: they can be asked, told apart, compared and scored.

All ways into an evaluation use them: imported, prepared and corrected benchmarks, tables of people,
and every manifest that a plan reads. A rejected text is named, with its fault in `DataError.fault`.
"""

import datetime
import decimal
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core.errors import DataError
from core.text import clean_text
from evaluation.answers.rule import normalise_neutral, unify_numbers
from evaluation.answers.yes_no import YesNoParser

_RESERVED = re.compile(r"<image(?: ?\d+)?>|<\|[^|<>]{1,60}\|>", re.IGNORECASE)
"""Placeholders of images and special tokens of chat templates."""
_SPREADSHEET_ERRORS = frozenset(
    {"#N/A", "#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NUM!", "#NULL!", "#SPILL!", "#CALC!"}
)
"""Texts that a spreadsheet program saves instead of a value that it can't compute."""
_TEXT_TYPES = (str, int, float, decimal.Decimal, datetime.date, datetime.time)
_MIN_CHOICES = 2
_MAX_CHOICES = len(string.ascii_uppercase)


def parse_text(value: Any, where: str, *, is_asked: bool = True) -> str:
    """Return a cleaned text that a model can be asked or compared with.

    Args:
        value: A value of a table. Finite numbers and dates are texts (2.0 is "2": tables with empty
            cells store whole numbers as fractions); null, NaN and infinity are not.
        where: File, row and column, or question, for error messages.
        is_asked: Whether the text is put into a prompt or compared with replies; texts for people
            may contain reserved tokens.

    Raises:
        DataError: If the value is not text or an error of a spreadsheet, or has a reserved token or
            half of a surrogate pair.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{where}: there is no value (a test split without answers?)", "no value")
    text = _to_text(value, where)
    try:
        text = clean_text(text).strip()
    except DataError as error:
        raise DataError(f"{where}: {error}", error.fault) from error
    if not text:
        raise DataError(f"{where}: the text is empty", "empty text")
    if text in _SPREADSHEET_ERRORS:
        raise DataError(
            f"{where}: '{text}' is an error of a spreadsheet program; correct the cell",
            "spreadsheet error",
        )
    if is_asked and (found := _RESERVED.search(text)):
        raise DataError(
            f"{where}: the text contains '{found[0]}', which is reserved for images and chat "
            "templates; remove it",
            "reserved token",
        )
    return text


def _to_text(value: Any, where: str) -> str:
    is_finite = not isinstance(value, float | decimal.Decimal) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, _TEXT_TYPES) or not is_finite:
        raise DataError(f"{where}: {value!r:.80} is not text", "not a text")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def check_texts(value: Any, where: str) -> Sequence[str]:
    """Return a stored list of texts that can be compared with replies.

    Raises:
        DataError: If it is not a list, is empty, or holds something other than usable texts.
    """
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: {value!r:.80} is not a list", "no list")
    if not value:
        raise DataError(f"{where}: the list is empty", "empty list")
    for text in value:
        check_text(text, where)
    return value


def check_text(value: Any, where: str) -> None:
    """Check a stored text; see `parse_text`.

    Raises:
        DataError: If it is not text, or can't be asked.
    """
    if not isinstance(value, str):
        fault = "no value" if value is None else "not a text"
        raise DataError(f"{where}: {value!r:.80} is not text", fault)
    parse_text(value, where)


def check_choices(choices: Sequence[str], where: str) -> None:
    """Check that choices can be told apart in a reply, by letter and by text.

    Raises:
        DataError: If there are too few or too many, or two are equal after normalisation.
    """
    if not _MIN_CHOICES <= len(choices) <= _MAX_CHOICES:
        fault = "a single choice" if len(choices) < _MIN_CHOICES else "too many choices"
        raise DataError(
            f"{where}: {list(choices)!r:.80} has {len(choices)} choices; expected "
            f"{_MIN_CHOICES} to {_MAX_CHOICES}",
            fault,
        )
    seen: dict[str, str] = {}
    for choice in choices:
        plain = unify_numbers(normalise_neutral(choice)) or choice
        if plain in seen:
            raise DataError(
                f"{where}: the choices {seen[plain]!r} and {choice!r} can't be told apart",
                "equal choices",
            )
        seen[plain] = choice


def check_index(value: Any, choices: Sequence[str], where: str) -> None:
    """Check the index of a correct choice.

    Raises:
        DataError: If it is not an index of the choices.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(choices):
        raise DataError(
            f"{where}: {value!r} is none of the {len(choices)} choices {list(choices)}; give its "
            "index from 0",
            "no such choice",
        )


def check_truth(
    answers: Mapping[str, Iterable[str]], parser: YesNoParser, where: str
) -> dict[str, bool]:
    """Return whether the answer of a yes/no question is yes, by language.

    Args:
        answers: Language -> correct answers.
        parser: Parser of replies, which knows the words of these languages.
        where: Name of the question for error messages.

    Raises:
        ConfigError: If a language has no words for yes and no.
        DataError: If an answer is neither yes nor no, or the languages disagree.
    """
    truth: dict[str, bool] = {}
    for language, texts in answers.items():
        for text in texts:
            is_yes = parser.parse(text, language)
            if is_yes is None:
                raise DataError(
                    f"{where}: the answer '{text}' is neither yes nor no in '{language}'; correct "
                    f"it, or add the word to languages/{language}/prompts.yaml",
                    "neither yes nor no",
                )
            if is_yes != next(iter(truth.values()), is_yes):
                raise DataError(
                    f"{where}: the answer '{text}' in '{language}' contradicts the others; the "
                    "texts do not belong together",
                    "answers differ",
                )
            truth[language] = is_yes
    return truth
