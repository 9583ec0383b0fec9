"""Registration of a grid's hypotheses: the hash of their file and the time of registration."""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """Hash of the registered hypotheses and time of their registration.

    Every stage run keeps the registrations under which it was started. They are not part of its
    address, so that a change of the hypotheses computes nothing again.
    """

    sha256: str
    """Hexadecimal sha256 of the file of the hypotheses."""
    time: float
    """Unix time of the registration."""

    @property
    def time_utc(self) -> str:
        """Time of the registration in ISO 8601, UTC."""
        return datetime.fromtimestamp(self.time, UTC).isoformat(timespec="microseconds")

    def to_json(self) -> dict[str, str]:
        """Return the JSON representation."""
        return {"sha256": self.sha256, "time_utc": self.time_utc}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read the representation of `to_json`."""
        when = datetime.fromisoformat(str(raw["time_utc"]))
        return cls(sha256=str(raw["sha256"]), time=when.timestamp())
