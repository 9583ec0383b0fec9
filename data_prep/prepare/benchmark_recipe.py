"""Recipes of published benchmarks: the columns of their rows and how to read them."""

import ast
import dataclasses
import io
import itertools
import re
import string
import tokenize
from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import ConfigError, DataError, unknown_name
from core.io.reading import RepeatedKeyError, parse_json
from evaluation.answers.rule import normalise_neutral
from evaluation.benchmarks.item_texts import check_choices, parse_text

NO_COLUMN = "no such column"
"""Fault of a row without a column that its recipe names."""
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_INDEX = re.compile(r"(-?\d{1,9})(?:[.]0+)?")
_ANSWER_FIELDS = ("answer", "text")
_CHOICE_FIELDS = ("text", "choice")
_LABEL_FIELD = "label"
_ANY_TYPE = "any"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnNames:
    """Names of the columns of a row; empty if there is no such column."""

    image: str
    question: str
    question_id: str = ""
    answers: str = ""
    """A text, a list of texts, or a list of objects with `answer`."""
    choices: str = ""
    correct_choice: str = ""
    answer_type: str = ""
    question_type: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkRecipe:
    """Description of the rows of a published benchmark."""

    benchmark: str
    """vqa, mc, capqa, da or open (`evaluation.benchmarks.items`)."""
    licence: str
    columns: ColumnNames
    answer_type: str = "other"
    """Answer type of all rows if no column holds it."""
    separator: str = ""
    """Separates the texts of a list that is stored as one text, as in a hand-written table."""
    leave_out_if: str = ""
    """Column of true or false, in any case, or 1 or 0: rows where it is true are left out and
    counted."""
    reader: str = ""
    """Module of `data_prep/prepare/reading/benchmarks/` that reads the files; empty for tables."""
    language_column: str = ""
    """Column that names the language of a row, in tables of several languages."""
    languages: dict[str, str] = dataclasses.field(default_factory=dict)
    """Language code -> regular expression of its values in `language_column`; rows of other
    languages are counted."""

    def __post_init__(self) -> None:
        """Check that the languages have a column, and are regular expressions."""
        if bool(self.language_column) != bool(self.languages):
            raise ConfigError("benchmark recipe: set language_column and languages, or neither")
        for code, pattern in self.languages.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"benchmark recipe: languages.{code}: {pattern!r} is not a regular expression "
                    f"({error}); correct it"
                ) from error


def is_left_out(recipe: BenchmarkRecipe, row: Mapping[str, Any], where: str) -> bool:
    """Return whether `leave_out_if` of the recipe applies to a row.

    Raises:
        DataError: If the column is missing, or is neither true nor false.
    """
    column = recipe.leave_out_if
    if not column:
        return False
    if column not in row:
        raise DataError(f"{where}: {unknown_name('column', column, row)}", NO_COLUMN)
    value = row[column]
    text = str(value) if isinstance(value, bool) else parse_text(value, f"{where}, {column}")
    if (flag := _FLAGS.get(text.lower())) is None:
        raise DataError(f"{where}, {column}: {value!r:.80}, expected true or false", "no flag")
    return flag


def is_other_language(
    recipe: BenchmarkRecipe, row: Mapping[str, Any], language: str, where: str
) -> bool:
    """Return whether a row of a table of several languages is in another language.

    Raises:
        ConfigError: If the recipe does not know the language.
        DataError: If the column of the language is missing.
    """
    column = recipe.language_column
    if not column:
        return False
    if language not in recipe.languages:
        raise ConfigError(
            unknown_name("language of the recipe", language, recipe.languages)
            + " Add it to `languages` in a copy of the recipe"
        )
    if column not in row:
        raise DataError(f"{where}: {unknown_name('column', column, row)}", NO_COLUMN)
    return re.fullmatch(recipe.languages[language], str(row[column])) is None


def read_item(recipe: BenchmarkRecipe, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert a row, without its image, to a benchmark item in one language.

    Raises:
        DataError: If a column is missing, or holds a value that can't be asked or scored.
    """
    names = recipe.columns
    for name in filter(None, dataclasses.astuple(names)):
        if name not in row:
            raise DataError(f"{where}: {unknown_name('column', name, row)}", NO_COLUMN)
    question = parse_text(row[names.question], f"{where}, {names.question}")
    item: dict[str, Any] = {"question": question}
    if names.choices:
        place = f"{where}, {names.choices}"
        choices = _parse_texts(row[names.choices], place, recipe.separator, _CHOICE_FIELDS)
        check_choices(choices, place)
        item["choices"] = choices
        item["correct_choice"] = _parse_correct_choice(
            row[names.correct_choice],
            choices,
            _labels(row[names.choices]),
            f"{where}, {names.correct_choice}",
        )
    if names.answers:
        place = f"{where}, {names.answers}"
        item["answers"] = _parse_texts(row[names.answers], place, recipe.separator, _ANSWER_FIELDS)
    for name, column, default in (
        ("answer_type", names.answer_type, recipe.answer_type),
        ("question_type", names.question_type, _ANY_TYPE),
    ):
        item[name] = parse_text(row[column], f"{where}, {column}") if column else default
    return item


def parse_id(value: Any, where: str) -> str:
    """Return the id of a question; a whole number is the same id as integer and as float.

    Raises:
        DataError: If it is missing.
    """
    return parse_text(value, where)


def _parse_texts(value: Any, where: str, separator: str, fields: Sequence[str]) -> list[str]:
    """Parse a list of texts from any of the ways in which benchmarks store one.

    Args:
        value: A text, a list of texts or objects, or an object of lists (as `datasets` stores lists
            of objects); a list may be written as text.
        where: File, row and column for error messages.
        separator: Separates the texts of a list that is stored as one text.
        fields: Names of the field that holds the text of an object.
    """
    if isinstance(value, str) and separator:
        value = value.split(separator)
    elif isinstance(value, str) and value.strip().startswith(("[", "{")):
        value = _parse_literal(value, where)
    elif isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping):
        value = value[_field_of(value, fields, where)]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise DataError(f"{where}: {value!r:.80} is not a list", "no list")
    if not value:
        raise DataError(f"{where}: the list is empty", "empty list")
    return [
        parse_text(one[_field_of(one, fields, where)] if isinstance(one, Mapping) else one, where)
        for one in value
    ]


def _field_of(value: Mapping[str, Any], fields: Sequence[str], where: str) -> str:
    for field in fields:
        if field in value:
            return field
    expected = " or ".join(fields)
    raise DataError(f"{where}: an object with {', '.join(value)}; expected {expected}", "no list")


def _labels(value: Any) -> list[str]:
    """Return the labels of choices that are stored with their texts (ARC: 1 to 4, or A to D)."""
    labels = value.get(_LABEL_FIELD) if isinstance(value, Mapping) else None
    return [str(label) for label in labels] if isinstance(labels, Sequence) else []


def _parse_literal(text: str, where: str) -> Any:
    """Parse a list or an object that is written as text, in JSON or in Python."""
    try:
        return parse_json(text)
    except RepeatedKeyError as error:
        raise DataError(f"{where}: {error}", "unreadable list") from error
    except (ValueError, RecursionError):
        pass
    try:
        if _lacks_commas(text):
            message = f"{where}: {text[:80]!r} has no commas between its texts; write a list"
            raise DataError(message, "unreadable list")
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise DataError(f"{where}: {text[:80]!r} is not a list", "unreadable list") from error


def _lacks_commas(text: str) -> bool:
    """Return whether two texts follow each other, as NumPy prints arrays; Python joins them."""
    tokens = tokenize.generate_tokens(io.StringIO(text.strip()).readline)
    kinds = [token.type for token in tokens if token.type != tokenize.NL]
    return any(pair == (tokenize.STRING, tokenize.STRING) for pair in itertools.pairwise(kinds))


def _parse_correct_choice(
    value: Any, choices: Sequence[str], labels: Sequence[str], where: str
) -> int:
    """Return the index of the correct choice from its label, index, text or letter.

    A label, or a number that is not written as text, has one meaning. Any other value may have
    several, such as "2" where a choice is "2".

    Raises:
        DataError: If it is none of the choices, or could be several.
    """
    text = parse_text(value, where)
    number = _INDEX.fullmatch(text)
    if text in labels:
        found = {labels.index(text)}
    elif number and not isinstance(value, str):
        found = {int(number[1])}
    else:
        found = {int(number[1])} if number else set()
        found |= _choices_of_text(text, choices)
        if len(text) == 1 and text.upper() in string.ascii_uppercase:
            found.add(string.ascii_uppercase.index(text.upper()))
    found = {index for index in found if 0 <= index < len(choices)}
    if len(found) > 1:
        meanings = " or ".join(f"choice {index} ({choices[index]!r})" for index in sorted(found))
        raise DataError(
            f"{where}: {value!r} may be {meanings}, by its index, letter or text; give an index, "
            "letter or text that means one choice only",
            "ambiguous choice",
        )
    if not found:
        raise DataError(
            f"{where}: {value!r:.80} is none of the {len(choices)} choices {choices}; give its "
            "index from 0, its letter or its text",
            "no such choice",
        )
    return found.pop()


def _choices_of_text(text: str, choices: Sequence[str]) -> set[int]:
    """Return the choice that has this text, exactly or else after normalisation."""
    if text in choices:
        return {choices.index(text)}
    plain = normalise_neutral(text)
    return {at for at, choice in enumerate(choices) if plain and plain == normalise_neutral(choice)}
