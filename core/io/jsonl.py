"""JSON Lines files that are appended to while the process may be killed at any moment.

A line counts once its line feed is on disk: readers ignore a last line without one, and
`recover_jsonl` removes it before the file is appended to.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from core.errors import DataError


def _unchanged(value: Any) -> Any:
    return value


class JsonlWriter:
    """File that stays open for appending; every line is handed to the system at once."""

    def __init__(self, path: Path, *, truncate: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w" if truncate else "a", encoding="utf-8")

    def write(self, value: object) -> None:
        """Append a line; it survives a kill of the process, but not of the operating system."""
        self._file.write(_to_line(value))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def append_jsonl(path: Path, values: Iterable[object]) -> None:
    """Append lines to a file, which is created if it is missing, and flush them to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(_to_line(value) for value in values))
        file.flush()
        os.fsync(file.fileno())


def format_jsonl(values: Iterable[object]) -> str:
    """Format values as the content of a JSON Lines file."""
    return "".join(_to_line(value) for value in values)


def read_jsonl(
    path: Path, parse: Callable[[Any], Any] = _unchanged, *, fix: str = "remove the line"
) -> list[Any]:
    """Read all complete lines.

    Args:
        path: File to read.
        parse: Converts the JSON value of a line.
        fix: Advice at the end of the error message.

    Raises:
        DataError: If a complete line is not JSON or `parse` rejects it.
    """
    return read_jsonl_from(path, 0, parse, fix=fix)[0]


def read_jsonl_from(
    path: Path,
    offset: int,
    parse: Callable[[Any], Any] = _unchanged,
    *,
    fix: str = "remove the line",
) -> tuple[list[Any], int]:
    """Read the complete lines after a byte offset; also return the offset of their end.

    Raises:
        DataError: See `read_jsonl`.
    """
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read()
    *complete, _ = content.split(b"\n")
    values = []
    for number, line in enumerate(complete, start=1):
        try:
            values.append(parse(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            start = line[:60].decode("utf-8", "replace")
            place = f"line {number}" + (f" after byte {offset}" if offset else "")
            raise DataError(f"{path}, {place} is damaged ({error}): {start!r}; {fix}") from error
    return values, offset + content.rfind(b"\n") + 1


def recover_jsonl(
    path: Path, parse: Callable[[Any], Any] = _unchanged, *, fix: str = "remove the line"
) -> list[Any]:
    """Read a file if it exists, and remove an incomplete last line so that lines can be appended.

    Raises:
        DataError: See `read_jsonl`.
    """
    if not path.exists():
        return []
    values, end = read_jsonl_from(path, 0, parse, fix=fix)
    if end < path.stat().st_size:
        os.truncate(path, end)
    return values


def _to_line(value: object) -> str:
    return json.dumps(value, allow_nan=False) + "\n"
