"""Errors by type of question, with the most frequent ones, and files of the rows behind them."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reporting.examples.gallery import PredictionRows, format_accepted, grade, read_rows
from reporting.records import CellRecord
from reporting.series import View

KINDS = {
    "partly": "partly right",
    "language": "right in another language",
    "refusal": "refused to answer",
    "unparsed": "no answer recognised",
    "truncated": "cut off",
    "wrong": "another answer",
}
"""Kinds of errors and their titles; a reply has the first one that applies."""
_FOLDER = "errors"
_NUM_EXAMPLES = 3
_MAX_LETTERS = 40
_COLUMNS = ("cell", "benchmark", "answer_type", "language", "error", "image_key", "question",
            "accepted", "reply", "score")  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorRow:
    """Errors of one cell on one type of question."""

    type: str
    language: str
    cell: str
    num_questions: int
    shares: tuple[float, ...]
    """Errors of each of `KINDS`, as fractions of the questions."""
    examples: tuple[tuple[str, str, int], ...]
    """The most frequent pairs of an accepted answer and another reply, and their number."""
    file: str
    """File with all errors on this type of question in this language, relative to the page."""


def error_kind(row: Mapping[str, Any]) -> str:
    """Return which of `KINDS` a row of predictions is; empty if the reply is right."""
    mark = grade(row["score"])
    if mark != "wrong":
        return "partly" if mark == "partly" else ""
    if row["score_any_language"] > 0:
        return "language"
    if row["is_refusal"]:
        return "refusal"
    if row["parsed"] is None and (row["choices"] or row["answer_type"] == "yes/no"):
        return "unparsed"
    return "truncated" if row["is_truncated"] else "wrong"


def error_rows(cells: Sequence[tuple[str, CellRecord]], view: View) -> list[ErrorRow]:
    """Return the errors by type of question, language and cell.

    Args:
        cells: Cells with their labels (`select_cells`).
        view: Axes and languages of the report.
    """
    tables = [(label, read_rows(cell)) for label, cell in cells]
    order = {language: number for number, language in enumerate(view.languages)}
    groups = sorted(
        _groups(table for _, table in tables),
        key=lambda group: (group[0], group[1], order.get(group[2], len(order))),
    )
    rows = []
    for group in groups:
        for label, table in tables:
            if found := _of_group(table, group):
                rows.append(_count(found, group, label))
    return rows


def error_files(cells: Sequence[tuple[str, CellRecord]]) -> dict[str, str]:
    """Return a CSV file of all errors for every type of question and language, by its name.

    Args:
        cells: Cells with their labels (`select_cells`).
    """
    tables = [(cell.cell_id, read_rows(cell)) for _, cell in cells]
    return {
        _file_name(group): _to_csv([(cell, _of_group(table, group)) for cell, table in tables])
        for group in sorted(_groups(table for _, table in tables))
    }


def _groups(tables: Iterable[PredictionRows]) -> set[tuple[str, str, str]]:
    return {_group(row) for table in tables for row in table.values()}


def _file_name(group: tuple[str, str, str]) -> str:
    dataset, answer_type, language = group
    return f"{_FOLDER}/{dataset}-{answer_type.replace('/', '-')}-{language}.csv"


def _group(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["dataset"], row["answer_type"], row["language"]


def _of_group(table: PredictionRows, group: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [row for _, row in sorted(table.items()) if _group(row) == group]


def _count(found: Sequence[Mapping[str, Any]], group: tuple[str, str, str], cell: str) -> ErrorRow:
    dataset, answer_type, language = group
    kinds = [error_kind(row) for row in found]
    counts = Counter(kinds)
    pairs = Counter(
        (_shorten(format_accepted(row, limit=1)), _shorten(row["output"].strip() or "(empty)"))
        for row, kind in zip(found, kinds, strict=True)
        if kind not in ("", "partly")
    )
    # Equal counts are ordered by their texts, not by the order of the questions.
    frequent = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:_NUM_EXAMPLES]
    return ErrorRow(
        type=f"{dataset}, {answer_type}",
        language=language,
        cell=cell,
        num_questions=len(found),
        shares=tuple(counts[kind] / len(found) for kind in KINDS),
        examples=tuple((accepted, reply, number) for (accepted, reply), number in frequent),
        file=_file_name(group),
    )


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_LETTERS else text[: _MAX_LETTERS - 1] + "…"


def _to_csv(cells: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for cell, found in cells:
        for row in found:
            if kind := error_kind(row):
                writer.writerow(
                    (cell, row["dataset"], row["answer_type"], row["language"], KINDS[kind],
                     row["image_key"], row["question"], format_accepted(row), row["output"],
                     row["score"])
                )  # fmt: skip
    return buffer.getvalue()
