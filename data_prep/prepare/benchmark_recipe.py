"""Recipes of published benchmarks: the columns of a row and how they become a question."""

import ast
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import DataError, unknown_name

BENCHMARK_RECIPES = Path(__file__).parents[1] / "benchmarks"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnNames:
    """Where things are in a row; empty: not there."""

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
    """How rows of a published benchmark are read."""

    benchmark: str
    """vqa, mc, capqa, da or open (`evaluation.benchmarks.items`)."""
    licence: str
    columns: ColumnNames
    answer_type: str = "other"
    """Of all rows, where no column says."""
    separator: str = ""
    """Between the texts of a list that is stored as one text, as in a table that people write."""
    leave_out_if: str = ""
    """Column of a truth: such rows are left out, and counted."""


def read_item(recipe: BenchmarkRecipe, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row without its image.

    Raises:
        DataError: a column is missing or not what it should be.
    """
    names = recipe.columns
    for name in filter(None, dataclasses.astuple(names)):
        if name not in row:
            raise DataError(f"{where}: {unknown_name('column', name, row)}", "no such column")
    item: dict[str, Any] = {"question": str(row[names.question]).strip()}
    if names.choices:
        item["choices"] = _texts(row[names.choices], where, recipe.separator)
        item["correct_choice"] = int(row[names.correct_choice])
    if names.answers:
        item["answers"] = _texts(row[names.answers], where, recipe.separator)
    item["answer_type"] = str(row[names.answer_type]) if names.answer_type else recipe.answer_type
    item["question_type"] = str(row[names.question_type]) if names.question_type else "any"
    return item


def _texts(value: Any, where: str, separator: str) -> list[str]:
    """A list of texts, however it was stored."""
    if isinstance(value, str) and separator:
        return [text.strip() for text in value.split(separator)]
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise DataError(f"{where}: {value[:80]!r} is no list", "unreadable list") from error
    if isinstance(value, str):
        return [value]
    texts = [str(one["answer"]) if isinstance(one, dict) else str(one) for one in value]
    if not texts:
        raise DataError(f"{where}: an empty list of answers or choices", "empty list")
    return texts
