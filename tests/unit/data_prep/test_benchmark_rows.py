"""Rows of published benchmarks: every layout is read as it is meant, or rejected by its column."""

import dataclasses
import math
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DataError
from data_prep.prepare.benchmark_recipe import (
    BenchmarkRecipe,
    ColumnNames,
    is_left_out,
    read_item,
)

CHOICE = BenchmarkRecipe(
    benchmark="mc",
    licence="test",
    columns=ColumnNames(image="image", question="q", choices="c", correct_choice="k"),
)
ANSWERS = BenchmarkRecipe(
    benchmark="vqa", licence="test", columns=ColumnNames(image="image", question="q", answers="a")
)
NOUNS = ["katua", "txakurra", "zaldia", "behia"]


def choice(c: Any = NOUNS, k: Any = 2, q: Any = "Zer da?") -> dict[str, Any]:
    return read_item(CHOICE, {"image": b"", "q": q, "c": c, "k": k}, "f.csv, row 3")


def answers(a: Any) -> list[str]:
    found: list[str] = read_item(ANSWERS, {"image": b"", "q": "Zer?", "a": a}, "row 3")["answers"]
    return found


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (["bai", "ez"], ["bai", "ez"]),
        ([{"answer": "bai", "answer_id": 1}, {"answer": "ez", "answer_id": 2}], ["bai", "ez"]),
        ({"answer": ["bai", "ez"], "answer_id": [1, 2]}, ["bai", "ez"]),
        ("['bai', 'ez']", ["bai", "ez"]),
        ("{'answer': ['bai', 'ez']}", ["bai", "ez"]),
        ('["bai", "d\'ez"]', ["bai", "d'ez"]),
        ("bai", ["bai"]),
        ([3, 2.5], ["3", "2.5"]),
        ([2.0, Decimal("1.00"), date(2026, 2, 1)], ["2", "1.00", "2026-02-01"]),
        (["\ufeffbai\u200b"], ["bai"]),
    ],
)
def test_answers_are_read_from_every_layout(value: Any, texts: list[str]) -> None:
    assert answers(value) == texts


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "no list"),
        (math.nan, "no list"),
        ([], "empty list"),
        ([None], "no value"),
        (["bai", math.nan], "no value"),
        ('["bai", null]', "no value"),
        ("[NaN]", "no value"),
        ([math.inf], "not a text"),
        ([Decimal("NaN")], "not a text"),
        ("[1e999]", "not a text"),
        ("['bai', ...]", "not a text"),
        ("[1+2j]", "not a text"),
        ("[{'bai'}]", "not a text"),
        (["#N/A"], "spreadsheet error"),
        ([["bai"]], "not a text"),
        ({"id": [1]}, "no list"),
        ("['katua' 'txakurra' 'zaldia']", "unreadable list"),
        ("['katua', ", "unreadable list"),
        ([" "], "empty text"),
        (["a\ud83d"], "text is not Unicode"),
        (["<image 1> da"], "reserved token"),
        (["<|eot_id|>"], "reserved token"),
    ],
)
def test_answers_that_mean_nothing_are_rejected(value: Any, fault: str) -> None:
    with pytest.raises(DataError, match="row 3, a") as raised:
        answers(value)
    assert raised.value.fault == fault
    assert str(raised.value).count("row 3") == 1


@pytest.mark.parametrize(
    ("choices", "correct", "index"),
    [
        (NOUNS, 2, 2),
        (NOUNS, 2.0, 2),
        (NOUNS, "2", 2),
        (NOUNS, "C", 2),
        (NOUNS, "c", 2),
        (NOUNS, "zaldia", 2),
        (NOUNS, " Zaldia.", 2),
        (["1", "2", "3"], 0, 0),
        (["10", "20", "30"], "20", 1),
        (["1", "2", "3"], 1, 1),
        (["0", "1", "2"], "1", 1),
        (["1", "2", "3"], "C", 2),
        (NOUNS, "\u0662", 2),
        (["?", "!"], "!", 1),
        ({"text": NOUNS, "label": ["A", "B", "C", "D"]}, "C", 2),
        ({"text": NOUNS, "label": ["1", "2", "3", "4"]}, "3", 2),
    ],
)
def test_correct_choices_are_indices_letters_labels_or_texts(
    choices: Any, correct: Any, index: int
) -> None:
    assert choice(choices, correct)["correct_choice"] == index


@pytest.mark.parametrize(
    ("choices", "correct", "fault"),
    [
        (NOUNS, None, "no value"),
        (NOUNS, 4, "no such choice"),
        (NOUNS, -1, "no such choice"),
        (NOUNS, "E", "no such choice"),
        (NOUNS, "asto", "no such choice"),
        (NOUNS, True, "not a text"),
        (NOUNS, 10**400, "no such choice"),
        (NOUNS, "9" * 5000, "no such choice"),
        (["?", "!"], ".", "no such choice"),
        (["1", "2", "3"], "1", "ambiguous choice"),
        (["B", "C", "A"], "B", "ambiguous choice"),
        ("katua, txakurra", 0, "a single choice"),
        (["katua", "Katua."], 0, "equal choices"),
        (["1.000", "1000"], 0, "equal choices"),
        ([f"aukera {n}" for n in range(27)], 0, "too many choices"),
        ({"A": "katua", "B": "txakurra"}, "A", "no list"),
        (["katua", ""], 0, "empty text"),
    ],
)
def test_choices_that_can_not_be_scored_are_rejected(
    choices: Any, correct: Any, fault: str
) -> None:
    with pytest.raises(DataError, match=r"f\.csv, row 3, [ck]") as raised:
        choice(choices, correct)
    assert raised.value.fault == fault


@pytest.mark.parametrize("question", [None, math.nan, " ", "<image> Zer da?", "\u200b"])
def test_questions_that_can_not_be_asked_are_rejected(question: Any) -> None:
    with pytest.raises(DataError, match=r"f\.csv, row 3, q"):
        choice(q=question)


FLAGGED = dataclasses.replace(CHOICE, leave_out_if="hard")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [(True, True), ("TRUE", True), ("1", True), (1.0, True), (False, False), ("False", False)],
)
def test_rows_are_left_out_by_a_column_in_any_spelling(flag: Any, expected: bool) -> None:
    assert is_left_out(FLAGGED, {"hard": flag}, "row 3") is expected


@pytest.mark.parametrize("row", [{}, {"hard": None}, {"hard": "bai"}, {"hard": ""}, {"hard": 2}])
def test_a_row_without_a_readable_flag_is_not_kept_in_silence(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"row 3.*hard"):
        is_left_out(FLAGGED, row, "row 3")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
@given(JSON, JSON, JSON)
def test_any_row_is_an_item_or_a_data_error(question: Any, choices: Any, correct: Any) -> None:
    try:
        item = choice(choices, correct, question)
    except DataError:
        return
    assert 0 <= item["correct_choice"] < len(item["choices"])
    assert all(item["choices"])
