"""The ledger of bad samples: sums over ranks, repeated steps and truncated lines."""

import json

import pytest

from core.errors import DataError
from core.samples import BadSample
from datamodules.batches.bad_samples import (
    BadSampleLedger,
    count_faults,
    read_bad_samples,
    write_summary,
)


def bad(position, source="a", fault="no text"):
    where = f"{source}/k{position}"
    return BadSample(
        position=position,
        source=source,
        key=f"k{position}",
        fault=fault,
        reason=f"{where}: {fault}",
    )


def ledger(folder, rank=0, first=0):
    return BadSampleLedger(folder, rank=rank, first_position=first)


def tell(folder, positions, **kwargs):
    book = ledger(folder, **kwargs)
    for position in positions:
        book.add(bad(position))
    return book


def positions(folder, stop=1000):
    return [sample.position for sample in read_bad_samples(folder, stop=stop)]


def test_no_file_is_written_without_bad_samples(tmp_path):
    assert ledger(tmp_path / "none").before() == {}
    assert not (tmp_path / "none").exists()
    write_summary(tmp_path / "none", tmp_path / "summary.json", stop=10)
    assert json.loads((tmp_path / "summary.json").read_text()) == {}


def test_ranks_are_summed_and_repeated_steps_are_counted_once(tmp_path):
    tell(tmp_path, [3, 40], rank=0)
    tell(tmp_path, [7, 41, 55], rank=1)
    assert positions(tmp_path) == [3, 7, 40, 41, 55]
    # Killed after position 55 and resumed at 40 on three ranks: 40 and 41 are recorded again.
    book = tell(tmp_path, [41], rank=0, first=40)
    tell(tmp_path, [40], rank=2, first=40)
    assert book.before() == {"a": 2}
    assert positions(tmp_path) == [3, 7, 40, 41]
    assert positions(tmp_path, stop=41) == [3, 7, 40]


def test_resuming_an_older_checkpoint_replaces_later_attempts(tmp_path):
    tell(tmp_path, [3], first=0)
    tell(tmp_path, [60], first=50)
    tell(tmp_path, [25, 61], first=20)
    assert positions(tmp_path) == [3, 25, 61]


def test_restarting_an_attempt_overwrites_its_file(tmp_path):
    tell(tmp_path, [3, 4])
    tell(tmp_path, [3])
    assert positions(tmp_path) == [3]


def test_a_truncated_last_line_is_ignored_and_a_damaged_one_is_an_error(tmp_path):
    tell(tmp_path, [3, 4])
    (path,) = tmp_path.glob("*.jsonl")
    text = path.read_text()
    path.write_text(text[:-5])
    assert positions(tmp_path) == [3]
    path.write_text(text.replace('"position": 3', '"place": 3'))
    with pytest.raises(DataError, match=r"rank0\.jsonl, line 1 is damaged"):
        positions(tmp_path)


def test_counts_are_grouped_by_source_and_fault(tmp_path):
    book = ledger(tmp_path)
    for sample in (bad(1), bad(2, fault="cut"), bad(5, "b"), bad(6), bad(9)):
        book.add(sample)
    assert count_faults(tmp_path, stop=9) == {"a": {"no text": 2, "cut": 1}, "b": {"no text": 1}}
    write_summary(tmp_path, tmp_path / "s.json", stop=9)
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["a"]["no text"] == {"count": 2, "examples": ["a/k1: no text", "a/k6: no text"]}
