"""The hypotheses as they were written down: `reporting/hypotheses.yaml`, kept with each grid."""

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.config import load_config
from core.errors import ConfigError
from core.io.files import atomic_write_text

SHIPPED = Path(__file__).parent / "hypotheses.yaml"
_KEPT = "hypotheses.yaml"
BEST = "best"
OTHERS = "others"
FIRST_NAMED = "first"
_SHARE = "target_share"


class Comparison(StrEnum):
    """How two values are compared."""

    NON_INFERIORITY = "non_inferiority"
    EQUIVALENCE = "equivalence"
    SUPERIORITY = "superiority"


class Asked(StrEnum):
    """The language of the questions."""

    TARGET = "target"
    BASE = "base"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """Two values of an axis and what is said about them; the file's head explains the fields."""

    text: str
    source: str
    axis: str
    first: Any
    second: Any
    test: Comparison
    language: Asked = Asked.TARGET
    pool: list[str] = dataclasses.field(default_factory=list)
    margin: float | None = None
    """Instead of the file's."""

    def __post_init__(self) -> None:
        if self.second == BEST and self.axis != _SHARE:
            raise ConfigError(f"'{self.text}': second: {BEST} needs axis: {_SHARE}")
        if self.axis in self.pool:
            raise ConfigError(f"'{self.text}': the compared axis '{self.axis}' can't be pooled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypotheses:
    """All that was registered."""

    margin: float
    benchmark: str
    hypotheses: dict[str, Hypothesis]

    def __post_init__(self) -> None:
        margins = [self.margin, *(h.margin for h in self.hypotheses.values() if h.margin)]
        if not all(0 < margin < 1 for margin in margins):
            raise ConfigError(f"margins are shares of accuracy in (0, 1), got {margins}")

    def margin_of(self, hypothesis: Hypothesis) -> float:
        """The margin a hypothesis is decided with."""
        return self.margin if hypothesis.margin is None else hypothesis.margin


def register(folder: Path) -> None:
    """Keep the hypotheses with a grid that starts; one that started before keeps its own."""
    kept = folder / _KEPT
    if not kept.is_file():
        load_config(Hypotheses, SHIPPED)
        atomic_write_text(kept, SHIPPED.read_text(encoding="utf-8"))


def registered(folder: Path) -> Hypotheses:
    """What was registered for the grid in a folder (what is shipped, if it has no copy).

    Raises:
        ConfigError: the file names unknown fields, tests or margins.
    """
    kept = folder / _KEPT
    return load_config(Hypotheses, kept if kept.is_file() else SHIPPED)


def has_changed(folder: Path) -> bool:
    """Whether the shipped hypotheses differ from those the grid began with."""
    return registered(folder) != load_config(Hypotheses, SHIPPED)
