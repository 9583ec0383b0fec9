"""Format of the hypotheses file, `reporting/hypotheses.yaml`, whose header explains the fields."""

import dataclasses
from enum import StrEnum
from typing import Any

from core.errors import ConfigError, unknown_name
from reporting.settings import SHARE

BEST = "best"
"""Second value: the best of the other values of the axis (of the other shares), whichever it is."""
OTHERS = "others"
"""Second value: every other value of the axis, with one claim each."""
BLIND = "blind"
"""Second value: the same cell with a blank image."""
MAJORITY = "majority"
"""Second value: the most frequent answer of each kind of question."""
BEFORE = "before_training"
"""Second value: the language model of the same cell before any training (kind retention)."""
FIRST_NAMED = "first"
"""First value: the first value of the axis in the grid."""


class Comparison(StrEnum):
    """Tests that compare two values of an axis."""

    NON_INFERIORITY = "non_inferiority"
    EQUIVALENCE = "equivalence"
    SUPERIORITY = "superiority"


class QuestionLanguage(StrEnum):
    """Language of the questions that decide a hypothesis."""

    TARGET = "target"
    BASE = "base"


class ClaimKind(StrEnum):
    """Kinds of measurements that a claim is about: a kind of benchmark, or something else."""

    VQA = "vqa"
    MULTIPLE_CHOICE = "mc"
    CAPTION_QA = "capqa"
    DIRECT = "da"
    FIDELITY = "fidelity"
    """Replies in the language of the question."""
    RETENTION = "retention"
    """Tasks of the language model without images."""
    PEOPLE = "people"
    """Preferences of annotators between two cells."""
    JUDGE = "judge"
    """Preferences of a language model between two cells."""


BENCHMARK_KINDS = (
    ClaimKind.VQA, ClaimKind.MULTIPLE_CHOICE, ClaimKind.CAPTION_QA, ClaimKind.DIRECT,
)  # fmt: skip
"""Kinds with a score per question and a score of the same model with a blank image."""
PAIRWISE_KINDS = (ClaimKind.PEOPLE, ClaimKind.JUDGE)
"""Kinds with preferences between two cells instead of a score per cell."""


class Quantity(StrEnum):
    """Value per question on which a hypothesis is decided."""

    SCORE = "score"
    ATTRIBUTABLE = "attributable"
    """Score minus the score of the same model with a blank image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Population:
    """A part of the questions of a benchmark; empty lists select everything."""

    benchmark: str = ""
    """Name of the benchmark; by default, that of the hypothesis."""
    kinds: list[str] = dataclasses.field(default_factory=list)
    """Kinds of benchmarks; by default, that of the hypothesis."""
    answer_types: list[str] = dataclasses.field(default_factory=list)
    question_types: list[str] = dataclasses.field(default_factory=list)

    def describe(self) -> str:
        """Describe the selection; empty if it selects everything."""
        named = [self.benchmark] if self.benchmark else []
        return ", ".join([*named, *self.kinds, *self.answer_types, *self.question_types])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A statement about two values of an axis; the header of the file explains the fields."""

    text: str
    source: str
    axis: str
    first: Any
    second: Any
    test: Comparison
    kind: Any = ClaimKind.VQA.value
    """A kind, or a list of kinds with one claim each."""
    benchmark: str = ""
    """Name of the benchmark; empty for the main one."""
    metric: str = ""
    """Column of the score; empty for the deciding metric of the profile."""
    quantity: Quantity = Quantity.SCORE
    population: Population = dataclasses.field(default_factory=Population)
    contrast: Population | None = None
    """Questions whose effect is subtracted from that of the population."""
    tasks: list[str] = dataclasses.field(default_factory=list)
    """Patterns of retention tasks; {language} is the code of the language."""
    language: QuestionLanguage = QuestionLanguage.TARGET
    pool: list[str] = dataclasses.field(default_factory=list)
    along: list[str] = dataclasses.field(default_factory=list)
    """Axes that change together with the compared one, whatever their values."""
    only_if: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Configuration fields and the values that cells must have."""
    first_if: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The same for the first cell of a pair only."""
    second_if: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The same for the second cell of a pair only."""
    minus: dict[str, Any] = dataclasses.field(default_factory=dict)
    """An axis and a value: the value of every cell counts less that of the cell that differs from
    it in this axis alone, so that the claim concerns a difference in differences."""
    margin: float | None = None
    """Fraction of accuracy that replaces the margin of the file; for kind fidelity a fraction of
    the replies, and for kinds people and judge a fraction of the net preference."""
    bits_margin: float | None = None
    """Margin in bits per byte of texts (kind retention, tasks text:SOURCE)."""
    relative_margin: float | None = None
    """Margin as a fraction of the second score minus its blind score; replaces `margin`."""
    left_out: str = ""
    """Why the experiment of a grid leaves out the hypothesis; empty if it doesn't."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        for name in self.kind if isinstance(self.kind, list) else [self.kind]:
            if name not in list(ClaimKind):
                raise ConfigError(unknown_name(f"kind in '{self.text}'", str(name), ClaimKind))
        kinds = self.kinds
        if self.second == BEST and (self.pool or self.contrast or self.test != "non_inferiority"):
            raise ConfigError(
                f"'{self.text}': second: {BEST} requires test: non_inferiority, without pool and "
                "contrast"
            )
        if self.axis in self.pool:
            raise ConfigError(f"'{self.text}': the compared axis '{self.axis}' can't be pooled")
        if self.second == BEFORE and kinds != (ClaimKind.RETENTION,):
            raise ConfigError(f"'{self.text}': second: {BEFORE} requires kind: retention")
        if self.second == MAJORITY and self.quantity is not Quantity.SCORE:
            raise ConfigError(
                f"'{self.text}': second: {MAJORITY} requires quantity: score, as the most frequent "
                "answer uses no image"
            )
        needs_blind = (
            self.quantity is Quantity.ATTRIBUTABLE
            or self.second in (BLIND, MAJORITY)
            or self.relative_margin is not None
        )
        if needs_blind and not set(kinds) <= set(BENCHMARK_KINDS):
            raise ConfigError(
                f"'{self.text}': kind {self.kind} has no score without the image; remove quantity, "
                f"relative_margin and second: {self.second}"
            )
        if ClaimKind.RETENTION in kinds and not self.tasks:
            raise ConfigError(f"'{self.text}': kind: retention needs tasks")
        if set(kinds) & set(PAIRWISE_KINDS) and self.pool:
            raise ConfigError(f"'{self.text}': preferences between two cells can't be pooled")
        self._check_along()
        self._check_minus()
        self._check_margins()

    def _check_along(self) -> None:
        """Check the axes that change together with the compared one."""
        if both := sorted({self.axis, *self.pool} & {*self.along}):
            raise ConfigError(
                f"'{self.text}': along names '{both[0]}', which is compared or pooled; remove it"
            )
        is_best = self.second == BEST and self.axis == SHARE
        if self.along and (is_best or self.second in (BLIND, MAJORITY, BEFORE)):
            raise ConfigError(
                f"'{self.text}': along needs a second value of the axis, not second: {self.second}"
            )

    def _check_minus(self) -> None:
        """Check that a difference in differences is one, and that pairs have two cells."""
        is_pair = self.second not in (BEST, BLIND, MAJORITY, BEFORE)
        if (self.first_if or self.second_if or self.minus) and not is_pair:
            raise ConfigError(
                f"'{self.text}': first_if, second_if and minus need a second value of the axis, "
                f"not second: {self.second}"
            )
        if not self.minus:
            return
        if len(self.minus) > 1 or {*self.minus} & {self.axis, *self.pool, *self.along}:
            raise ConfigError(
                f"'{self.text}': minus={self.minus}; name one axis that is neither compared nor "
                "pooled, with one value"
            )
        if self.relative_margin is not None or set(self.kinds) & set(PAIRWISE_KINDS):
            raise ConfigError(
                f"'{self.text}': minus can't be combined with relative_margin or preferences; "
                "state a margin in points"
            )

    def _check_margins(self) -> None:
        """Check that every unit of the hypothesis has its own margin."""
        if self.bits_margin is not None and not self._may_have_texts:
            raise ConfigError(
                f"'{self.text}': bits_margin={self.bits_margin} requires kind: retention with "
                "tasks that are measured in bits per byte (text:SOURCE)"
            )
        if self.bits_margin is not None and not self.bits_margin > 0:
            raise ConfigError(
                f"'{self.text}': bits_margin={self.bits_margin}; expected a positive number of "
                "bits per byte, such as 0.05"
            )
        if self.test is Comparison.SUPERIORITY:
            return
        if self._may_have_texts and self.bits_margin is None:
            raise ConfigError(
                f"'{self.text}': tasks text:SOURCE are measured in bits per byte, to which the "
                "margin of accuracies does not apply; add bits_margin, for example 0.05"
            )
        own = sorted(set(self.kinds) & {ClaimKind.FIDELITY, *PAIRWISE_KINDS})
        if own and self.margin is None:
            raise ConfigError(
                f"'{self.text}': kind {', '.join(own)} is not measured in accuracy; add margin, "
                "for example 0.1"
            )

    @property
    def _may_have_texts(self) -> bool:
        """Return whether a pattern may select a task `text:SOURCE`, measured in bits per byte."""
        wildcards = ("*", "?", "[")
        return ClaimKind.RETENTION in self.kinds and any(
            task.startswith(("text:", *wildcards)) for task in self.tasks
        )

    @property
    def kinds(self) -> tuple[ClaimKind, ...]:
        """The kinds, with one claim each."""
        names = self.kind if isinstance(self.kind, list) else [self.kind]
        return tuple(map(ClaimKind, names))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypotheses:
    """All hypotheses of the file and their common margin."""

    margin: float
    """Margin of accuracies, a fraction in (0, 1)."""
    hypotheses: dict[str, Hypothesis]

    def __post_init__(self) -> None:
        """Check the margins."""
        own = [h.margin for h in self.hypotheses.values()]
        relative = [h.relative_margin for h in self.hypotheses.values()]
        margins = [self.margin, *(m for m in [*own, *relative] if m is not None)]
        if not all(0 < margin < 1 for margin in margins):
            raise ConfigError(f"margins are fractions of accuracy in (0, 1), got {margins}")

    def margin_of(self, hypothesis: Hypothesis, *, is_bits: bool = False) -> float:
        """Return the absolute margin that applies to a hypothesis.

        Args:
            hypothesis: The hypothesis.
            is_bits: Whether it is measured in bits per byte. The margin is then 0 for a test of
                superiority, which has none.
        """
        if is_bits:
            return hypothesis.bits_margin or 0.0
        return self.margin if hypothesis.margin is None else hypothesis.margin
