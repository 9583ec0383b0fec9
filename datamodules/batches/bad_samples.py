"""The samples that a stage left out, counted exactly over all ranks and attempts.

A position of the stream is told by one rank each time it is due, so positions tell repetitions
apart: steps that are trained again after a kill are not counted twice. Every rank appends to a file
of its own; whoever wants to know reads all of them.
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
_NAME = re.compile(r"from(\d+)-rank\d+\.jsonl")
_EXAMPLES = 3

FaultCounts = dict[str, Counter[str]]
"""Source -> fault -> samples."""


class BadSampleLedger:
    """The lines of one rank's attempt, and what earlier attempts left."""

    def __init__(self, folder: Path, *, rank: int, first_position: int) -> None:
        """Nothing is written before the first bad sample.

        Args:
            folder: Of the stage, the same for all ranks.
            rank: Of this process.
            first_position: Where this attempt begins in the stream.
        """
        self.folder, self.first_position = folder, first_position
        self._path = folder / f"from{first_position:012d}-rank{rank}.jsonl"
        self._file: JsonlWriter | None = None
        if rank == 0:  # What was trained from here on before is trained again.
            for path in _files(folder):
                if _first_position(path) > first_position:
                    path.unlink()

    def add(self, bad: BadSample) -> None:
        """Keep a line; flushed, so that a kill loses nothing."""
        if self._file is None:
            self._file = JsonlWriter(self._path, truncate=True)
        self._file.write(dataclasses.asdict(bad))

    def before(self) -> Counter[str]:
        """Samples of each source that were left out before this attempt began."""
        found = read_bad_samples(self.folder, stop=self.first_position)
        return Counter(bad.source for bad in found)


def read_bad_samples(folder: Path, *, stop: int) -> list[BadSample]:
    """All that were left out at positions below `stop`, in the stream's order.

    Raises:
        DataError: a line that is neither whole nor the last of its file.
    """
    by_position: dict[int, BadSample] = {}
    files = sorted(_files(folder), key=_first_position)
    starts = [_first_position(path) for path in files]
    for path, start in zip(files, starts, strict=True):
        if start >= stop:
            continue  # and rank 0 may be removing it
        # A later attempt took over where it began.
        end = min([stop, *(later for later in starts if later > start)])
        for bad in read_jsonl(path, _parse_bad_sample, fix="delete the file"):
            if bad.position < end:
                by_position[bad.position] = bad
    return [by_position[position] for position in sorted(by_position)]


def write_summary(folder: Path, path: Path, *, stop: int) -> None:
    """Write the counts by source and fault, with some examples of each, as JSON."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for bad in read_bad_samples(folder, stop=stop):
        faults = summary.setdefault(bad.source, {})
        entry = faults.setdefault(bad.fault, {"count": 0, "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < _EXAMPLES and bad.reason not in entry["examples"]:
            entry["examples"].append(bad.reason)
    atomic_write_text(path, json.dumps(summary, ensure_ascii=False, indent=1) + "\n")


def count_faults(folder: Path, *, stop: int) -> FaultCounts:
    """Source -> fault -> samples left out at positions below `stop`."""
    counts: FaultCounts = {}
    for bad in read_bad_samples(folder, stop=stop):
        counts.setdefault(bad.source, Counter())[bad.fault] += 1
    return counts


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.jsonl") if _NAME.fullmatch(path.name)]


def _first_position(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is no ledger")
    return int(match[1])


def _parse_bad_sample(raw: dict[str, Any]) -> BadSample:
    return BadSample(**raw)
