"""Readers of the JSON files that describe grids and stage runs.

This module imports nothing heavy, so that commands that only look at the store start at once.
"""

import json
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.process.log import get_logger

_LOG = get_logger("store")


def read_grid_json(folder: Path, *, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read the `grid.json` of a grid's folder.

    Raises:
        DataError: See `read_json`.
    """
    fix = "delete it and run the grid again, which writes it and reuses finished stages"
    return read_json(folder / "grid.json", default=default, fix=fix)


def read_json(
    path: Path, *, default: dict[str, Any] | None = None, fix: str = "run the stage again"
) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        default: Value of a missing file; None if it must exist.
        fix: What a user can do about a damaged file.

    Raises:
        DataError: If the file is damaged, or missing and no default was given.
    """
    if default is not None and not path.is_file():
        return default
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read ({error}); {fix}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, expected an object; {fix}")
    return content


def read_note(path: Path) -> dict[str, Any]:
    """Read a JSON object that no result depends on; {} with a warning if it is damaged.

    A full disk or a lost machine leaves such files empty.
    """
    try:
        return read_json(path, default={})
    except DataError as error:
        _LOG.warning("%s; it is ignored and will be rewritten", str(error).partition("; ")[0])
        return {}
