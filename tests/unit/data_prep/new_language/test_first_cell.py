"""Letters, truncated replies and scores of a first cell are counted in its predictions."""

from collections import Counter

import pyarrow as pa
import pytest

from core.errors import DataError
from data_prep.new_language.first_cell import count_scripts, find_predictions, measure_replies
from evaluation.benchmarks.predictions import SCHEMA, write_predictions
from tests.support import fake_grid

_EMPTY = {
    "dataset": "benchmark_test", "benchmark": "vqa", "question_type": "name",
    "answer_type": "other", "language": "ka", "choices": [],
    "answers": ["ძაღლი", "DJ ძაღლი ძაღლი ძაღლი ძაღლი ძაღლი ძაღლი ძაღლი"],
    "is_in_language": True, "is_truncated": False, "score": 0.0, "majority_score": 0.25,
}  # fmt: skip
_ZEROS = {pa.string(): "", pa.float64(): 0.0, pa.bool_(): False, pa.int32(): 0}


def write_rows(path, rows):
    """Write predictions whose other columns are empty."""
    filled = [
        {f.name: None if f.nullable else _ZEROS.get(f.type, []) for f in SCHEMA} | _EMPTY | row
        for row in rows
    ]
    write_predictions(path, pa.Table.from_pylist(filled, schema=SCHEMA))


def test_letters_are_counted_by_script_and_undecodable_bytes_belong_to_none():
    found = count_scripts("ძაღლი dog 3 \N{REPLACEMENT CHARACTER}!")
    assert found == Counter({"GEORGIAN": 5, "LATIN": 3, "": 1})
    assert count_scripts("犬です") == Counter({"CJK": 1, "HIRAGANA": 2})


def test_replies_are_counted_in_the_predictions(tmp_path):
    path = tmp_path / "predictions.parquet"
    guided = {"benchmark": "mc", "question_type": "choice", "is_in_language": None}
    write_rows(path, [
        {"output": "ძაღლი", "score": 1.0},
        {"output": "dog", "is_in_language": False, "is_truncated": True},
        {"output": "3", "question_type": "number", "chance_score": 0.25},
        {"output": "\N{REPLACEMENT CHARACTER}", "is_in_language": False},
        {"output": "ძაღლი", "score": 1.0, "chance_score": 0.25, **guided},
        {"output": "dog", "language": "en", "is_truncated": True, "answers": ["dog"]},
        {"output": "dog", "dataset": "benchmark_withheld", "is_truncated": True},
    ])  # fmt: skip
    found = measure_replies(path, "ka")
    assert found.scripts == ("GEORGIAN",), "two Latin letters are fewer than 5 %"
    assert (found.num_replies, found.num_truncated, found.num_without_letters) == (4, 1, 1)
    assert (found.num_letters, found.num_own_letters) == (9, 5)
    assert found.script_share == pytest.approx(100 * 5 / 9)
    scores = {one.name: (one.num_questions, one.accuracy, one.chance) for one in found.types}
    assert scores == {
        "vqa name": (3, pytest.approx(100 / 3), None),
        "vqa number": (1, 0.0, 25.0),
        "mc choice": (1, 100.0, 25.0),
    }
    lines = "\n".join(found.describe())
    assert "(GEORGIAN): 55.6 % of 9 letters; 1 replies have no letter" in lines
    assert "truncated replies: 1 of 4 (25.0 %)" in lines
    assert "different replies: 4; the most frequent, 'ძაღლი', is 25.0 % of all" in lines


def test_replies_without_letters_have_no_share(tmp_path):
    path = tmp_path / "predictions.parquet"
    write_rows(path, [{"output": "3"}, {"output": ""}])
    found = measure_replies(path, "ka")
    assert found.script_share is None
    assert "none, because they have no letters; 2 replies" in found.describe()[0]


@pytest.mark.slow
def test_the_predictions_are_those_of_the_grid(tmp_path):
    fake_grid.make_grid(tmp_path, "first_cell", cells=fake_grid.mix_axes()[-1:], num_images=12)
    found = measure_replies(find_predictions(tmp_path, "first_cell-embedded"), "eu")
    assert found.scripts == ("LATIN",)
    assert found.num_replies > 0
    with pytest.raises(DataError, match="run --exp first_cell again"):
        find_predictions(tmp_path, "smoke-embedded")
    two = fake_grid.mix_axes()[-2:]
    fake_grid.make_grid(tmp_path, "first_cell", cells=two, num_images=12)  # neither is meant
    with pytest.raises(DataError, match="run --exp first_cell again"):
        find_predictions(tmp_path, "first_cell-embedded")
