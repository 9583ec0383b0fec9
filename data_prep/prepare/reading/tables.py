"""Reading CSV tables as spreadsheet programs save them."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from core.errors import DataError
from core.text import clean_text

_MAX_CELL_CHARACTERS = 64 << 20
_DELIMITERS = (",", ";", "\t")
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATOR_LINE = "sep="
_ADVICE = 'in Excel, use "Save As" with the type "CSV UTF-8 (comma delimited)"'


def read_table(content: bytes, name: str) -> list[dict[Any, Any]]:
    """Return the rows of a CSV table with its head as keys.

    Files of Excel are read as they are: with a byte order mark, as UTF-16, separated by commas,
    semicolons or tabs, with empty rows at the end. A row with too few or too many cells has None as
    a value or a key, as `csv.DictReader` returns it.

    Args:
        content: The bytes of the file.
        name: Name of the file in error messages.

    Raises:
        DataError: If the file is in another encoding, or is not a table.
    """
    text = _decode(content, name)
    first, rest = _split_line(text)
    delimiter = ""
    if first.strip().lower().startswith(_SEPARATOR_LINE):
        delimiter, text = first.strip()[len(_SEPARATOR_LINE) :], rest
        first, _ = _split_line(text)
    if delimiter not in _DELIMITERS:
        delimiter = max(_DELIMITERS, key=first.count)
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    # Without `strict`, a cell whose quotation mark is never closed takes all rows after it.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, line = list[dict[Any, Any]](), 0
    try:
        reader.fieldnames = parse_head(reader.fieldnames or (), name)
        line = reader.line_num
        for row in reader:
            rows.append(row)
            line = reader.line_num
    except csv.Error as error:
        raise DataError(
            f"{name} is not a table: the row that begins in line {line + 1} has an odd quotation "
            f"mark ({error}); correct it, or {_ADVICE}",
            "damaged",
        ) from error
    while rows and not any(_has_content(value) for value in rows[-1].values()):
        rows.pop()
    return rows


def parse_head(cells: Iterable[str], name: str) -> list[str]:
    """Return the names of columns without invisible marks and surrounding white space.

    Raises:
        DataError: If two columns have the same name; the later one would replace the other.
    """
    names = [clean_text(cell).strip() for cell in cells]
    if repeated := [column for column, count in Counter(names).items() if count > 1 and column]:
        raise DataError(
            f"{name} has two columns '{repeated[0]}'; rename or remove one of them", "damaged"
        )
    return names


def is_quoted(cell: str) -> bool:
    """Return whether a cell is in quotation marks."""
    return len(cell) > 1 and cell.startswith('"') and cell.endswith('"')


def unquote(cell: str, *, always: bool) -> str:
    """Return the text of a cell of a .tsv, which some programs write in quotation marks.

    Quotation marks around a cell may belong to its text. They do not if the cell is empty, or the
    marks inside of it are doubled, as programs double them that add such marks.

    Args:
        cell: The cell.
        always: Whether the program puts all cells into quotation marks.
    """
    if not is_quoted(cell):
        return cell
    inside = cell[1:-1]
    is_doubled = '"' in inside and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if always or is_doubled or not inside else cell


def _split_line(text: str) -> tuple[str, str]:
    """Return the first line, which a line feed or a carriage return ends, and the rest."""
    end = re.search(r"\r\n?|\n", text)
    return (text[: end.start()], text[end.end() :]) if end else (text, "")


def _decode(content: bytes, name: str) -> str:
    encoding = "utf-16" if content.startswith(UTF_16_MARKS) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name} is not saved as UTF-8 (line {line}); {_ADVICE}", "not UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(f"{name} is not a text file; {_ADVICE}", "damaged")
    return text


def _has_content(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)
