"""CSV tables as spreadsheet programs save them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DataError
from data_prep.prepare.reading.tables import read_table

TABLE = 'question_id,question\r\n1,Zer da ñabardura?\r\n2,"bat, bi"\r\n'
ROWS = [
    {"question_id": "1", "question": "Zer da ñabardura?"},
    {"question_id": "2", "question": "bat, bi"},
]
SEMICOLONS = TABLE.replace('"bat, bi"', "'").replace(",", ";").replace("'", '"bat, bi"')


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),
        TABLE.encode("utf-16"),
        SEMICOLONS.encode("utf-8-sig"),
        SEMICOLONS.replace(";", "\t").encode("utf-16"),
        ("sep=;\r\n" + SEMICOLONS).encode(),
        (TABLE + ",\r\n , \r\n\r\n").encode(),
        TABLE.replace("\r\n", "\n").encode(),
        TABLE.replace("\r\n", "\r").encode(),
        ("sep=;\r" + SEMICOLONS.replace("\r\n", "\r")).encode(),
        TABLE.replace("question_id,", " \u200bquestion_id ,").encode(),
    ],
)
def test_tables_of_spreadsheets_are_read(content: bytes) -> None:
    assert read_table(content, "form.csv") == ROWS


def test_long_cells_are_read() -> None:
    assert read_table(b"a,b\n" + b"x" * 200_000 + b",1\n", "form.csv")[0]["b"] == "1"


@pytest.mark.parametrize("cell", ['"bat', '"bat" bi'])
def test_an_odd_quotation_mark_takes_no_other_row(cell: str) -> None:
    table = f"a,b\n1,x\n2,{cell}\n3,x\n4,x\n"
    with pytest.raises(DataError, match=r"form\.csv .* begins in line 3 has an odd quotation mark"):
        read_table(table.encode(), "form.csv")


@pytest.mark.parametrize("content", [TABLE.encode("cp1252"), TABLE.encode("utf-16-le")])
def test_other_encodings_are_rejected_with_advice(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^form.csv .*CSV UTF-8"):
        read_table(content, "form.csv")


@pytest.mark.parametrize("head", ["a,a", "a, a", "a,b,\ufeffa"])
def test_columns_of_one_name_are_rejected(head: str) -> None:
    with pytest.raises(DataError, match="has two columns 'a'"):
        read_table(f"{head}\n1,2,3\n".encode(), "form.csv")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_a_data_error(content: bytes) -> None:
    with contextlib.suppress(DataError):
        read_table(content, "form.csv")
