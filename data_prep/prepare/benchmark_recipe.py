"""Recipes of published benchmarks: the columns of their rows and how to read them."""

import ast
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import DataError, unknown_name

BENCHMARK_RECIPES = Path(__file__).parents[1] / "benchmarks"


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
    """Boolean column: rows where it is true are left out and counted."""


def read_item(recipe: BenchmarkRecipe, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert a row, without its image, to a benchmark item in one language.

    Raises:
        DataError: If a column is missing or holds an unexpected value.
    """
    names = recipe.columns
    for name in filter(None, dataclasses.astuple(names)):
        if name not in row:
            raise DataError(f"{where}: {unknown_name('column', name, row)}", "no such column")
    item: dict[str, Any] = {"question": str(row[names.question]).strip()}
    if names.choices:
        item["choices"] = _parse_texts(row[names.choices], where, recipe.separator)
        item["correct_choice"] = int(row[names.correct_choice])
    if names.answers:
        item["answers"] = _parse_texts(row[names.answers], where, recipe.separator)
    item["answer_type"] = str(row[names.answer_type]) if names.answer_type else recipe.answer_type
    item["question_type"] = str(row[names.question_type]) if names.question_type else "any"
    return item


def _parse_texts(value: Any, where: str, separator: str) -> list[str]:
    """Parse a list of texts from any of the ways in which benchmarks store one."""
    if isinstance(value, str) and separator:
        return [text.strip() for text in value.split(separator)]
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise DataError(f"{where}: {value[:80]!r} is not a list", "unreadable list") from error
    if isinstance(value, str):
        return [value]
    texts = [str(one["answer"]) if isinstance(one, dict) else str(one) for one in value]
    if not texts:
        raise DataError(f"{where}: the list of answers or choices is empty", "empty list")
    return texts
