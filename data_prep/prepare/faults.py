"""Why something is left out: counted by a few words, with examples, never in silence."""

import dataclasses
from collections import Counter
from typing import Any

from core.errors import IrudimenError

_EXAMPLES = 5


class DroppedError(IrudimenError):
    """One row that is left out."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(kw_only=True)
class Ledger:
    """In = out + dropped, of one step on one part or of all parts together."""

    num_in: int = 0
    num_out: int = 0
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    extra: dict[str, float] = dataclasses.field(default_factory=dict)
    """Other counts, added up over parts: bytes, tokens, money."""

    def drop(self, where: str, fault: DroppedError) -> None:
        """Count a row that is left out."""
        self.dropped[fault.reason] += 1
        kept = self.examples.setdefault(fault.reason, [])
        if len(kept) < _EXAMPLES:
            kept.append(f"{where}: {fault.detail}"[:300] if fault.detail else where)

    def add(self, name: str, value: float) -> None:
        """Add to a count."""
        self.extra[name] = self.extra.get(name, 0) + value

    def check(self, where: str) -> None:
        """Raise IrudimenError unless in = out + dropped."""
        if self.num_in != self.num_out + self.dropped.total():
            raise IrudimenError(
                f"{where}: {self.num_in} rows in, {self.num_out} out and "
                f"{self.dropped.total()} left out do not add up; this is a fault of the program"
            )

    def merge(self, other: "Ledger") -> None:
        """Add another's counts."""
        self.num_in += other.num_in
        self.num_out += other.num_out
        self.dropped += other.dropped
        for reason, found in other.examples.items():
            kept = self.examples.setdefault(reason, [])
            kept.extend(found[: _EXAMPLES - len(kept)])
        for name, value in other.extra.items():
            self.add(name, value)

    def dump(self) -> dict[str, Any]:
        """As JSON types."""
        ordered = dict(sorted(self.dropped.items()))
        return {**dataclasses.asdict(self), "dropped": ordered}

    @staticmethod
    def load(raw: dict[str, Any]) -> "Ledger":
        """Of what `dump` gave."""
        return Ledger(**{**raw, "dropped": Counter(raw["dropped"])})
