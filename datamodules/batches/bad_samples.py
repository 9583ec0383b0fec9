"""Ledger of the bad samples that a stage skipped, exact over all ranks and attempts.

Each rank appends to a file of its own, and readers merge all files. Every bad sample is reported
with its stream position by exactly one rank, so steps that are repeated after a crash are not
counted twice.
"""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from core.io.files import atomic_write_text
from core.io.jsonl import JsonlWriter, read_jsonl
from core.samples import BadSample

SUMMARY_NAME = "bad_samples.json"
_LEDGER_NAME = re.compile(r"from(\d+)-rank\d+\.jsonl")
_MAX_EXAMPLES = 3

FaultCounts = dict[str, Counter[str]]
"""Number of bad samples by source and fault."""


class BadSampleLedger:
    """Records the bad samples of one rank and attempt, and reads those of earlier attempts."""

    def __init__(self, folder: Path, *, rank: int, first_position: int) -> None:
        """Open the ledger; nothing is written before the first bad sample.

        Args:
            folder: Ledger folder of the stage, shared by all ranks.
            rank: Rank of this process.
            first_position: Stream position at which this attempt begins.
        """
        self.folder, self.first_position = folder, first_position
        self._path = folder / f"from{first_position:012d}-rank{rank}.jsonl"
        self._file: JsonlWriter | None = None
        if rank == 0:  # steps after this position will be repeated
            for path in _ledger_files(folder):
                if _first_position(path) > first_position:
                    path.unlink()

    def add(self, bad: BadSample) -> None:
        """Append a bad sample; the line is flushed, so that a killed process loses nothing."""
        if self._file is None:
            self._file = JsonlWriter(self._path, truncate=True)
        self._file.write(dataclasses.asdict(bad))

    def before(self) -> Counter[str]:
        """Return the number of bad samples of each source in earlier attempts."""
        found = read_bad_samples(self.folder, stop=self.first_position)
        return Counter(bad.source for bad in found)


def read_bad_samples(folder: Path, *, stop: int) -> list[BadSample]:
    """Return the bad samples at positions below `stop`, in stream order.

    Raises:
        DataError: If a line other than the last of a file is incomplete.
    """
    by_position: dict[int, BadSample] = {}
    files = sorted(_ledger_files(folder), key=_first_position)
    starts = [_first_position(path) for path in files]
    for path, start in zip(files, starts, strict=True):
        if start >= stop:
            continue  # rank 0 may be removing it at the same time
        # From its first position on, a later attempt replaces this one.
        end = min([stop, *(later for later in starts if later > start)])
        for bad in read_jsonl(path, _parse_bad_sample, fix="delete the file"):
            if bad.position < end:
                by_position[bad.position] = bad
    return [by_position[position] for position in sorted(by_position)]


def write_summary(folder: Path, path: Path, *, stop: int) -> None:
    """Write the counts by source and fault, with a few examples of each, as JSON."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for bad in read_bad_samples(folder, stop=stop):
        faults = summary.setdefault(bad.source, {})
        entry = faults.setdefault(bad.fault, {"count": 0, "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < _MAX_EXAMPLES and bad.reason not in entry["examples"]:
            entry["examples"].append(bad.reason)
    atomic_write_text(path, json.dumps(summary, ensure_ascii=False, indent=1) + "\n")


def count_faults(folder: Path, *, stop: int) -> FaultCounts:
    """Return the number of bad samples at positions below `stop`, by source and fault."""
    counts: FaultCounts = {}
    for bad in read_bad_samples(folder, stop=stop):
        counts.setdefault(bad.source, Counter())[bad.fault] += 1
    return counts


def _ledger_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.jsonl") if _LEDGER_NAME.fullmatch(path.name)]


def _first_position(path: Path) -> int:
    match = _LEDGER_NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not a ledger file")
    return int(match[1])


def _parse_bad_sample(raw: dict[str, Any]) -> BadSample:
    return BadSample(**raw)
