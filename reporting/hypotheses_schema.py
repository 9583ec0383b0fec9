"""Format of the hypotheses file, `reporting/hypotheses.yaml`."""

import dataclasses
from enum import StrEnum
from typing import Any

from core.errors import ConfigError
from reporting.settings import SHARE

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
