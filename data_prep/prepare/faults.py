"""Rows that are left out: every one is counted by its reason, with examples."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from core.errors import IrudimenError
from core.io.reading import reading

_EXAMPLES = 5


class DroppedError(IrudimenError):
    """A row is left out; the reason is counted, the detail is shown as an example."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(kw_only=True)
class Ledger:
    """Row counts of a step, over one part or all parts: num_in = num_out + dropped."""

    num_in: int = 0
    num_out: int = 0
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    extra: dict[str, float] = dataclasses.field(default_factory=dict)
    """Other figures that are summed over parts: bytes, tokens, money."""

    def drop(self, where: str, error: DroppedError) -> None:
        """Count a row that is left out."""
        self.dropped[error.reason] += 1
        kept = self.examples.setdefault(error.reason, [])
        if len(kept) < _EXAMPLES:
            kept.append(f"{where}: {error.detail}"[:300] if error.detail else where)

    def add(self, name: str, value: float) -> None:
        """Add to an extra figure."""
        self.extra[name] = self.extra.get(name, 0) + value

    def check(self, where: str) -> None:
        """Check that every row is accounted for.

        Raises:
            IrudimenError: If num_in differs from num_out + dropped.
        """
        if self.num_in != self.num_out + self.dropped.total():
            raise IrudimenError(
                f"{where}: {self.num_in} rows in, {self.num_out} out and "
                f"{self.dropped.total()} left out do not add up; please report this bug"
            )

    def merge(self, other: "Ledger") -> None:
        """Add the counts of another ledger."""
        self.num_in += other.num_in
        self.num_out += other.num_out
        self.dropped += other.dropped
        for reason, found in other.examples.items():
            kept = self.examples.setdefault(reason, [])
            kept.extend(found[: _EXAMPLES - len(kept)])
        for name, value in other.extra.items():
            self.add(name, value)

    def dump(self) -> dict[str, Any]:
        """Return the ledger as JSON types."""
        ordered = dict(sorted(self.dropped.items()))
        return {**dataclasses.asdict(self), "dropped": ordered}

    @staticmethod
    def load(raw: dict[str, Any]) -> "Ledger":
        """Return the ledger that `dump` wrote."""
        return Ledger(**{**raw, "dropped": Counter(raw["dropped"])})


def read_ledger(path: Path) -> Ledger:
    """Read a ledger from the folder of a task.

    Raises:
        DataError: If the file is damaged.
    """
    with reading(path, fix=f"remove {path.parent} and run the command again"):
        return Ledger.load(json.loads(path.read_text(encoding="utf-8")))
