"""Pre-registered hypotheses: `reporting/hypotheses.yaml`, copied to each grid when it starts."""

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.config import load_config
from core.errors import ConfigError
from core.io.files import atomic_write_text
from reporting.settings import SHARE

SHIPPED = Path(__file__).parent / "hypotheses.yaml"
_COPY_NAME = "hypotheses.yaml"
BEST = "best"
OTHERS = "others"
FIRST_NAMED = "first"


class Comparison(StrEnum):
    """Tests that compare two values of an axis."""

    NON_INFERIORITY = "non_inferiority"
    EQUIVALENCE = "equivalence"
    SUPERIORITY = "superiority"


class QuestionLanguage(StrEnum):
    """Language of the questions that decide a hypothesis."""

    TARGET = "target"
    BASE = "base"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A statement about two values of an axis; the head of the file explains the fields."""

    text: str
    source: str
    axis: str
    first: Any
    second: Any
    test: Comparison
    language: QuestionLanguage = QuestionLanguage.TARGET
    pool: list[str] = dataclasses.field(default_factory=list)
    margin: float | None = None
    """Margin that replaces the one of the file."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.second == BEST and self.axis != SHARE:
            raise ConfigError(f"'{self.text}': second: {BEST} requires axis: {SHARE}")
        if self.axis in self.pool:
            raise ConfigError(f"'{self.text}': the compared axis '{self.axis}' can't be pooled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypotheses:
    """All hypotheses of the file, with their common margin and benchmark."""

    margin: float
    benchmark: str
    hypotheses: dict[str, Hypothesis]

    def __post_init__(self) -> None:
        """Check the margins."""
        margins = [self.margin, *(h.margin for h in self.hypotheses.values() if h.margin)]
        if not all(0 < margin < 1 for margin in margins):
            raise ConfigError(f"margins are fractions of accuracy in (0, 1), got {margins}")

    def margin_of(self, hypothesis: Hypothesis) -> float:
        """Return the margin that applies to a hypothesis."""
        return self.margin if hypothesis.margin is None else hypothesis.margin


def register(folder: Path) -> None:
    """Copy the hypotheses to the folder of a grid, unless it has a copy from an earlier start."""
    copy = folder / _COPY_NAME
    if not copy.is_file():
        load_config(Hypotheses, SHIPPED)
        atomic_write_text(copy, SHIPPED.read_text(encoding="utf-8"))


def load_registered(folder: Path) -> Hypotheses:
    """Load the hypotheses that were registered for a grid, or the current ones if it has no copy.

    Raises:
        ConfigError: If the file contains unknown fields or tests, or invalid margins.
    """
    copy = folder / _COPY_NAME
    return load_config(Hypotheses, copy if copy.is_file() else SHIPPED)


def has_changed(folder: Path) -> bool:
    """Return whether the current hypotheses differ from those of a grid in more than wording."""
    return _without_wording(load_registered(folder)) != _without_wording(
        load_config(Hypotheses, SHIPPED)
    )


def _without_wording(registered: Hypotheses) -> Hypotheses:
    hypotheses = {
        name: dataclasses.replace(hypothesis, text="", source="")
        for name, hypothesis in registered.hypotheses.items()
    }
    return dataclasses.replace(registered, hypotheses=hypotheses)
