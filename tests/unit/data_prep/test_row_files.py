"""Awkward files of rows: no row is lost, changed or replaced in silence."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import DataError
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.reading import rows


def read_all(path: Path) -> list[Any]:
    return [row for part in rows.split(str(path), per_part=2) for _, row in rows.read(part)]


TWICE = pa.StructArray.from_arrays(
    [pa.array([1, 2, 3]), pa.array([1, 2, 3])], ["y", "y"], mask=pa.array([True, False, True])
)


@pytest.mark.parametrize(
    ("column", "detail"),
    [
        (pa.array([0, 600_000_000_000, 0], pa.timestamp("s")), "'x': OverflowError"),
        (pa.array([0, 7_000_000, 0], pa.date32()), "'x': OverflowError"),
        (pa.array([0, 2**62, 0], pa.duration("s")), "'x': OverflowError"),
        (pa.array([None, 1, None], pa.timestamp("s", tz="Mars/Olympus")), "'x': "),
        (TWICE, "'x': ValueError"),
    ],
)
def test_a_parquet_value_that_python_can_not_hold_drops_its_row(
    tmp_path: Path, column: pa.Array, detail: str
) -> None:
    pq.write_table(pa.table({"id": ["a", "b", "c"], "x": column}), tmp_path / "a.parquet")
    found = read_all(tmp_path / "a.parquet")
    assert [row["id"] for row in found if not isinstance(row, DroppedError)] == ["a", "c"]
    assert found[1].reason == "a value can't be read"
    assert f"column {detail}" in str(found[1])


def test_parquet_columns_of_one_name_are_rejected(tmp_path: Path) -> None:
    """The row of a table is a dict: the second column replaced the first."""
    columns = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.table(columns, names=["q", "q"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has two columns 'q'"):
        read_all(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('id\ttext\n1\t"Zer da ""hau""?"\n', ['Zer da "hau"?']),
        ('id\ttext\n1\t"Kaixo" esan du\n2\t"Kaixo"\n', ['"Kaixo" esan du', '"Kaixo"']),
        ('id\ttext\n1\t""\n', [""]),
        ('"id"\t"text"\n"1"\t"Kaixo"\n2\tbai\n', ["Kaixo", "bai"]),
    ],
)
def test_quotation_marks_of_a_tsv_are_removed_if_a_program_added_them(
    tmp_path: Path, content: str, texts: list[str]
) -> None:
    (tmp_path / "a.tsv").write_text(content)
    found = read_all(tmp_path / "a.tsv")
    assert [row["text"] for row in found] == texts
    assert found[0]["id"] == "1"


@pytest.mark.parametrize("kind", ["jsonl", "tsv"])
def test_a_line_that_is_too_long_takes_no_other_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The rest of the line counted as further lines, and as many lines at the end were lost."""
    monkeypatch.setattr(rows, "_MAX_LINE_BYTES", 20)
    row, head = ('{"a": "%s"}\n', "") if kind == "jsonl" else ("%s\n", "a\n")
    path = tmp_path / f"a.{kind}"
    path.write_text(head + "".join(row % text for text in ("1", "x" * 70, "2", "3")))
    found = read_all(path)
    assert isinstance(found[1], DroppedError)
    assert found[1].reason == "the line is too long"
    assert [one["a"] for one in (found[0], *found[2:])] == ["1", "2", "3"]


def test_json_lines_may_be_named_json(tmp_path: Path) -> None:
    lines = ['{"id": 1}', "", '{"id": 2', '{"id": 3}']
    (tmp_path / "a.json").write_text("\r\n".join(lines), encoding="utf-8")
    first, second, third = read_all(tmp_path / "a.json")
    assert (first, third) == ({"id": 1}, {"id": 3})
    assert second.reason == "row is not JSON"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b' {"a": 1}', "holds dict"),
        (b'[{"a": 1}, {"a"', "is not JSON"),
        ('[{"a": 1}]'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ('[{"a": "ñ"}]'.encode("latin-1"), "is not UTF-8"),
    ],
)
def test_a_json_file_without_rows_is_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_all(tmp_path / "a.json")


def test_a_list_named_as_json_lines_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('[{"id": 1}]', encoding="utf-8")
    (found,) = read_all(tmp_path / "a.jsonl")
    assert "a file that is one list is named .json" in found.reason
