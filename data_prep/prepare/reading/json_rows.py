"""Parsing of JSON files of rows."""

from collections.abc import Sequence
from typing import Any

from core.errors import DataError
from core.io.reading import parse_json
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.reading.tables import UTF_16_MARKS


def parse_rows(content: bytes, file: str) -> Sequence[Any]:
    """Parse a list of rows, or JSON lines, which are often named .json, too.

    Raises:
        DataError: If the file has neither.
    """
    if content.startswith(UTF_16_MARKS):
        raise DataError(f"{file} is UTF-16; save it as UTF-8", "not UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}; save it as UTF-8", "not UTF-8") from error
    if not text.strip():
        raise DataError(f"{file} is empty; download it again", "damaged")
    try:
        rows = parse_json(text)
    except (ValueError, RecursionError) as error:
        lines = [parse_line(line) for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and isinstance(lines[0], dict):
            return lines
        raise DataError(f"{file} is not JSON: {error}; download it again", "damaged") from error
    if not isinstance(rows, list):
        found = type(rows).__name__
        raise DataError(f"{file} holds {found}; convert it to a list of rows", "damaged")
    return rows


def parse_line(line: str) -> Any:
    """Parse a line of a JSON lines file; return the reason if it is not JSON."""
    try:
        return parse_json(line)
    except (ValueError, RecursionError) as error:
        return DroppedError("row is not JSON", str(error))
