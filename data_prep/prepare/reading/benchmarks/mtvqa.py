"""MTVQA (ByteDance/MTVQA): questions about text in images, in nine languages.

The location is the files of a split, `FOLDER/data/test-*.parquet`. A row is an image with all its
questions, as a list that is written as text.
"""

import ast
from collections.abc import Iterator
from typing import Any

from core.errors import DataError
from data_prep.prepare.reading.rows import read_whole

_REQUEST = "Answer the question using a word or phrase in the language of the question."
"""In English for every language, as published."""
_COLUMNS = ("image", "qa_pairs", "lang")


def read(place: str) -> Iterator[dict[str, Any]]:
    """Yield a row per question; its id is the number of the image over all files, and its own.

    Raises:
        DataError: If a file has other columns, or an unreadable list of questions.
    """
    for number, row in enumerate(read_whole(place)):
        if missing := [name for name in _COLUMNS if name not in row]:
            raise DataError(f"{place}, row {number} has no column '{missing[0]}'")
        for at, pair in enumerate(_pairs(row["qa_pairs"], f"{place}, row {number}")):
            yield {
                "question_id": f"{number}_{at}",
                "language": row["lang"],
                "image": row["image"],
                "question": f"{str(pair.get('question') or '').strip()}\n{_REQUEST}",
                "answers": [pair.get("answer")],
            }


def _pairs(value: Any, where: str) -> list[dict[str, Any]]:
    """Return the questions and answers about an image."""
    try:
        pairs = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise DataError(f"{where}: qa_pairs is not a list: {error}; download it again") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise DataError(f"{where}: qa_pairs is not a list of objects; download it again")
    return pairs
