"""Errors of files that can't be read or parsed: one message with the file and a fix."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import DataError, IrudimenError


@contextlib.contextmanager
def reading(
    path: Path | str, *, fix: str, error_class: type[IrudimenError] = DataError
) -> Iterator[None]:
    """Report any error of the block, which reads and parses a file, with the file and a fix.

    Args:
        path: The file, or a folder of files that belong together.
        fix: What the user can do, such as "delete it".
        error_class: Class of the error.

    Raises:
        DataError: Or `error_class`, if the block raises any error; those of this project pass.
    """
    try:
        yield
    except IrudimenError:
        raise
    except Exception as error:  # parsers of damaged files raise anything
        reason = " ".join(str(error).split()) or "no content"
        kind = type(error).__name__
        raise error_class(f"{path} can't be read ({kind}: {reason}); {fix}") from error


def read_json_file(path: Path, *, fix: str, error_class: type[IrudimenError] = DataError) -> Any:
    """Read a JSON file.

    Raises:
        DataError: Or `error_class`, if it is missing or damaged.
    """
    with reading(path, fix=fix, error_class=error_class):
        return json.loads(path.read_text(encoding="utf-8"))


class RepeatedKeyError(ValueError):
    """A JSON object with two values for one key."""


def parse_json(content: str | bytes) -> Any:
    """Parse JSON that another program or a user wrote.

    `json.loads` keeps the last value of a repeated key and drops the others without a message.

    Raises:
        RepeatedKeyError: If an object repeats a key.
        ValueError: If the content is not JSON.
        RecursionError: If the values are nested too deeply.
    """
    if isinstance(content, bytes):
        content = content.decode(json.detect_encoding(content), "surrogatepass")
    return _DECODER.decode(content)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise RepeatedKeyError(f"the key '{repeated}' appears twice in an object")
    return content


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def read_text_file(path: Path) -> str:
    """Return the text of a UTF-8 file without its byte order mark, as other programs write it.

    Raises:
        DataError: If the file is missing or in another encoding.
    """
    with reading(path, fix="check the path, and save it as UTF-8"):
        return path.read_text(encoding="utf-8-sig")
