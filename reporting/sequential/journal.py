"""Journal of a sequential grid: its start set, predictions, measurements and decisions.

The journal is a file of JSON lines in the folder of the grid, to which lines are only added. The
first line names the registered hypotheses by their hash, and every line has the hash of the line
before it, so that a prediction can't be changed after its cell was trained without changing all
later lines.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from core.errors import DataError
from evaluation.statistics.decisions import Verdict
from evaluation.statistics.sequential.choice import PREDICTION_LEVEL, Candidate
from evaluation.statistics.sequential.study import Look

JOURNAL_NAME = "sequential.jsonl"
_START, _PREDICTED, _SCORED, _LOOK, _END = "start", "predicted", "scored", "look", "end"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A prediction of a cell, with its measurement once the cell is trained."""

    cell_id: str
    time: float
    """Unix time of the prediction."""
    mean: float
    low: float
    high: float
    measured: float | None = None

    @property
    def is_inside(self) -> bool | None:
        """Return whether the measurement is inside the interval; None if there is none."""
        return None if self.measured is None else self.low <= self.measured <= self.high


class Journal:
    """Lines of the journal of one grid."""

    def __init__(self, path: Path, lines: Sequence[Mapping[str, Any]], last_hash: str) -> None:
        self._path, self._last_hash = path, last_hash
        self.lines = list(lines)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the journal in the folder of a grid; a grid without one has an empty journal.

        A last line that was cut off, as by a crash, is removed.

        Raises:
            DataError: If a line was changed.
        """
        path = folder / JOURNAL_NAME
        lines, last_hash = list[Mapping[str, Any]](), ""
        content = path.read_bytes() if path.is_file() else b""
        if content and not content.endswith(b"\n"):
            content = content[: content.rfind(b"\n") + 1]
            path.write_bytes(content)
        for number, text in enumerate(content.splitlines(), start=1):
            try:
                line = json.loads(text)
                is_next = line["previous"] == last_hash and bool(line["event"])
            except (ValueError, KeyError, TypeError):
                is_next = False
            if not is_next:
                raise DataError(
                    f"{path}, line {number}: the line or the one before it was changed; restore "
                    "the file from a copy, or start another grid with --name NAME"
                )
            lines.append(line)
            last_hash = hashlib.sha256(text).hexdigest()
        return cls(path, lines, last_hash)

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """The first line: cells, start set, claims and levels; None if the grid has not begun."""
        return self.lines[0] if self.lines else None

    @property
    def end(self) -> str:
        """Why the grid stopped, or an empty text."""
        last = self.lines[-1] if self.lines else {}
        return str(last.get("reason", "")) if last.get("event") == _END else ""

    @property
    def looks(self) -> list[Mapping[str, Any]]:
        """The looks, oldest first."""
        return [line for line in self.lines if line["event"] == _LOOK]

    @property
    def closed(self) -> dict[str, Verdict]:
        """Claims that are decided, with their verdicts."""
        found: dict[str, Verdict] = {}
        for look in self.looks:
            for name, state in look["claims"].items():
                if state["closed"] and name not in found:
                    found[name] = Verdict(state["closed"])
        return found

    def predictions(self) -> list[Prediction]:
        """Return all predictions in the order in which they were registered."""
        return list(self._predictions())

    @property
    def pending(self) -> str:
        """Cell that was predicted and has no measurement yet, or an empty text."""
        open_cells = [one.cell_id for one in self._predictions() if one.measured is None]
        return open_cells[-1] if open_cells else ""

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the first line."""
        self._add(_START, settings)

    def predict(self, cell_id: str, candidate: Candidate, hours: float) -> None:
        """Register the prediction of a cell, before it is trained."""
        self._add(
            _PREDICTED,
            {
                "cell": cell_id,
                "mean": candidate.mean,
                "low": candidate.low,
                "high": candidate.high,
                "level": PREDICTION_LEVEL,
                "hours": hours,
                "reduction": candidate.reduction,
            },
        )

    def score(self, cell_id: str, measured: float) -> None:
        """Record the measurement of a predicted cell."""
        self._add(_SCORED, {"cell": cell_id, "measured": measured})

    def record_look(self, trained: Sequence[str], look: Look, hours: float) -> None:
        """Record what some trained cells decide.

        Args:
            trained: Ids of the trained cells.
            look: The state of the claims.
            hours: Hours that these cells have cost, as planned.
        """
        claims = {
            claim.name: {
                "p_supported": claim.p_supported,
                "p_refuted": claim.p_refuted,
                "forecast": {verdict.value: p for verdict, p in claim.forecast.items()},
                "closed": None if claim.closed is None else claim.closed.value,
            }
            for claim in look.claims
        }
        self._add(_LOOK, {"trained": list(trained), "hours": hours, "claims": claims})

    def finish(self, reason: str) -> None:
        """Record why no further cell is trained."""
        self._add(_END, {"reason": reason})

    def _predictions(self) -> Iterator[Prediction]:
        measured = {line["cell"]: line["measured"] for line in self.lines
                    if line["event"] == _SCORED}  # fmt: skip
        for line in self.lines:
            if line["event"] == _PREDICTED:
                yield Prediction(
                    cell_id=line["cell"],
                    time=float(line["time"]),
                    mean=float(line["mean"]),
                    low=float(line["low"]),
                    high=float(line["high"]),
                    measured=measured.get(line["cell"]),
                )

    def _add(self, event: str, content: Mapping[str, Any]) -> None:
        line = {"event": event, "time": time.time(), "previous": self._last_hash, **content}
        text = json.dumps(line, ensure_ascii=False).encode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)
        self._last_hash = hashlib.sha256(text).hexdigest()
