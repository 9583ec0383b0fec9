"""Errors by type of question: kinds, numbers, examples, and the files of the rows."""

import csv
import html
import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reporting import build, series
from reporting.examples import gallery
from reporting.examples.errors import KINDS, error_files, error_kind, error_rows
from reporting.records import load_grid
from tests.support import fake_grid

_RIGHT: dict[str, Any] = {
    "score": 1.0, "score_any_language": 1.0, "is_refusal": False, "is_truncated": False,
    "parsed": "dog", "choices": [], "answer_type": "other",
}  # fmt: skip
_WRONG = {**_RIGHT, "score": 0.0, "score_any_language": 0.0}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (_RIGHT, ""),
        (_RIGHT | {"score": 0.3}, "partly"),
        (_WRONG | {"score_any_language": 1.0, "is_truncated": True}, "language"),
        (_WRONG | {"is_refusal": True, "parsed": None}, "refusal"),
        (_WRONG | {"parsed": None, "answer_type": "yes/no"}, "unparsed"),
        (_WRONG | {"parsed": None, "choices": ["a", "b"]}, "unparsed"),
        (_WRONG | {"parsed": None}, "wrong"),
        (_WRONG | {"is_truncated": True}, "truncated"),
        (_WRONG, "wrong"),
    ],
)
def test_a_reply_has_the_first_kind_that_applies(row: dict[str, Any], kind: str) -> None:
    assert error_kind(row) == kind


@pytest.mark.slow
def test_numbers_and_files_agree_with_the_predictions(tmp_path: Path) -> None:
    fake_grid.make_grid(tmp_path)
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    view = series.view_of(grid)
    cells = gallery.select_cells(grid, view)
    rows, files = error_rows(cells, view), error_files(cells)
    page = build.build_report("mix_ablation", root=tmp_path)
    text = html.unescape(page.read_text(encoding="utf-8"))
    replies = {label: gallery.read_rows(cell) for label, cell in cells}
    assert sum(row.num_questions for row in rows) == sum(map(len, replies.values()))
    assert {row.file for row in rows} == set(files)
    for row in rows:
        dataset, answer_type = row.type.split(", ")
        mine = [
            one for one in replies[row.cell].values()
            if (one["dataset"], one["answer_type"], one["language"])
            == (dataset, answer_type, row.language)
        ]  # fmt: skip
        kinds = Counter(error_kind(one) for one in mine)
        assert row.shares == tuple(kinds[kind] / len(mine) for kind in KINDS)
        accepted, reply, number = row.examples[0]
        assert number == max(count for _, _, count in row.examples)
        same = [one for one in mine if error_kind(one) not in ("", "partly")
                and gallery.format_accepted(one, limit=1) == accepted
                and one["output"].strip() == reply]  # fmt: skip
        assert len(same) == number
        assert (page.parent / row.file).read_text(encoding="utf-8") == files[row.file]
        assert f'href="{row.file}"' in text
    all_errors = [line for file in files.values() for line in csv.DictReader(io.StringIO(file))]
    wrong = [one for table in replies.values() for one in table.values() if error_kind(one)]
    assert len(all_errors) == len(wrong)
