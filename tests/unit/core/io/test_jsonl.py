"""JSON Lines files survive a kill in the middle of a line."""

from pathlib import Path

import pytest

from core.errors import DataError
from core.io.jsonl import (
    JsonlWriter,
    append_jsonl,
    format_jsonl,
    read_jsonl,
    read_jsonl_from,
    recover_jsonl,
)

_VALUES = [{"text": "ñ\n\u2028"}, [1, "x"], None]


def test_values_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.jsonl"
    append_jsonl(path, _VALUES[:1])
    writer = JsonlWriter(path)
    for value in _VALUES[1:]:
        writer.write(value)
    writer.close()
    assert read_jsonl(path) == _VALUES
    assert path.read_text() == format_jsonl(_VALUES)
    JsonlWriter(path, truncate=True).close()
    assert read_jsonl(path) == []


def test_an_incomplete_last_line_is_ignored_at_every_length(tmp_path: Path) -> None:
    content = format_jsonl(_VALUES).encode()
    path = tmp_path / "file.jsonl"
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        num_complete = content[:length].count(b"\n")
        assert read_jsonl(path) == _VALUES[:num_complete]
        assert path.stat().st_size == length
        assert recover_jsonl(path) == _VALUES[:num_complete]
        append_jsonl(path, ["more"])
        assert read_jsonl(path) == [*_VALUES[:num_complete], "more"]


def test_reading_continues_at_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text("1\n2\n3")
    assert read_jsonl_from(path, 0) == ([1, 2], 4)
    path.write_text("1\n2\n33\n")
    assert read_jsonl_from(path, 4) == ([33], 7)
    assert read_jsonl_from(path, 7) == ([], 7)


def test_a_missing_file_has_no_lines_to_recover(tmp_path: Path) -> None:
    assert recover_jsonl(tmp_path / "none") == []


def test_a_damaged_line_names_file_line_and_fix(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text('{"a": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"file\.jsonl, line 2 is damaged .*'nonsense'; delete it"):
        read_jsonl(path, fix="delete it")
    with pytest.raises(DataError, match="line 1 is damaged"):
        recover_jsonl(path, lambda value: value["b"])
