"""Tables of corrections by annotators: read as spreadsheets save them, checked as other data."""

from pathlib import Path

import pytest

from core.errors import DataError
from data_prep.corrections import Fix, apply_fixes, read_fixes
from evaluation.benchmarks.items import load_benchmark
from tests.support.evaluation_doubles import raw_items, write_benchmark

HEAD = "task;annotator;content;language;overall;verdict;text"


def table(path: Path, *rows: str) -> Path:
    path.write_bytes("\r\n".join((HEAD, *rows, ";;;;;;", "")).encode("utf-8-sig"))
    return path


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    rows = ("k-0;ane;;;;fix; \u200betxea ", "k-1;ane;;;;reject;", "k-2;ane;;;;accept;")
    fixes, counts, unsettled = read_fixes(table(tmp_path / "f.csv", *rows))
    assert fixes == {"k": [Fix(at=0, text="etxea"), Fix(at=1, text=None)]}
    assert counts == {"fix": 1, "reject": 1, "accept": 1}
    assert not unsettled


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["k-0;ane;;;;fix;"], "line 2, text: the text is empty"),
        (["k-0;ane;;;;accept;", "k-0;ane;;;;accept;"], "line 3: 'ane' judged task 'k-0' twice"),
        (["k-0;ane;;;;maybe;"], "lacks a task or a known verdict"),
    ],
)
def test_entries_that_mean_nothing_are_rejected(
    tmp_path: Path, rows: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_fixes(table(tmp_path / "f.csv", *rows))


def test_another_encoding_is_rejected_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(f"{HEAD}\nk-0;ane;;;;fix;ñabar\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"not saved as UTF-8 .*CSV UTF-8"):
        read_fixes(path)


@pytest.mark.parametrize(
    ("at", "text", "message"),
    [
        (0, "zer <image>?", "adds or removes '<image>'"),
        (0, "zer?<|eot_id|>", "reserved"),
        (1, "katu.", "can't be told apart"),
    ],
)
def test_a_correction_that_spoils_a_question_is_rejected(
    tmp_path: Path, at: int, text: str, message: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    choice = raw_items(0)[3]  # txakur, katu, etxe, zuhaitz
    write_benchmark(data, [("p", {"items": [choice]}, b"x")])
    fixes = {choice["question_id"]: [Fix(at=at, text=text)]}
    with pytest.raises(DataError, match=message):
        apply_fixes(data, tmp_path / "bad", fixes, "eu")
    fixes = {choice["question_id"]: [Fix(at=1, text="zakur")]}
    assert apply_fixes(data, tmp_path / "good", fixes, "eu") == {"changed": 1}
    items = load_benchmark(tmp_path / "good" / "benchmark_test.manifest.json", ["eu"])
    assert items[0].choices == ("zakur", "katu", "etxe", "zuhaitz")
