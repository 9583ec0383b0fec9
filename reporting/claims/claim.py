"""Claims: registered hypotheses about specific cells of a grid, with their decisions."""

import dataclasses

from evaluation.statistics.decisions import Decision, Verdict
from evaluation.statistics.heterogeneity import Heterogeneity
from evaluation.statistics.intervals import Interval
from evaluation.statistics.trainings.recipes import RecipeDecision
from reporting.claims.hypotheses_schema import Comparison
from reporting.claims.units import ACCURACY, Unit

NOT_RUN = "the cells have not run yet"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClaimPart:
    """One of the pairs of cells that a claim pools."""

    label: str
    effect: Interval
    """Difference of the pair with its own 95 % interval."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trainings:
    """Numbers of trainings of the compared cells."""

    first: tuple[int, ...]
    """Distinct numbers of trainings of the first cells, in ascending order."""
    second: tuple[int, ...] = ()
    """The same for the second cells; empty if they are the first ones in another condition, or
    were not trained."""

    def describe(self) -> str:
        """Describe the numbers, per side if they differ."""
        if len({*self.first, *self.second}) == 1:
            return f"{_count(self.first)} per cell"
        sides = [("first", self.first), ("second", self.second)]
        described = [f"{_count(numbers)} per {name} cell" for name, numbers in sides if numbers]
        return ", ".join(described)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A hypothesis about specific cells and its decisions."""

    name: str
    """Name of the hypothesis in the file."""
    text: str
    detail: str
    """What is compared, on which values."""
    language: str
    test: Comparison
    unit: Unit = ACCURACY
    """Unit of the difference, its interval and the margin."""
    decision: Decision | None = None
    """Decision about these trained models; None if there is nothing to decide (see `reason`)."""
    recipe: RecipeDecision | None = None
    """Decision about the recipes of these models."""
    parts: tuple[ClaimPart, ...] = ()
    """The pooled pairs; empty for a single pair."""
    heterogeneity: Heterogeneity | None = None
    excluded: tuple[str, ...] = ()
    """Cells that do not exceed their blind and majority baselines; pooled claims leave them out."""
    notes: tuple[str, ...] = ()
    reason: str = ""
    """Why there is no verdict, or why it was withdrawn."""
    recipe_reason: str = ""
    """The same for the verdict about the recipes."""
    trainings: Trainings = Trainings(first=(1,))
    num_pooled_cells: int = 0
    """Number of replicated cells whose training variance stands for that of the compared cells;
    0 if the compared cells have it themselves, each from equally many trainings."""
    empty_support: str = ""
    """Why support would not be evidence; empty if it would be."""
    shows_nothing: str = ""
    """Why no verdict would be evidence; empty if a compared cell exceeds its baselines."""

    @property
    def verdict(self) -> Verdict | None:
        """Verdict about the recipes if trainings were repeated, else about the trained models."""
        if self.recipe is not None and self.recipe.df is not None:
            return self.recipe.decision.verdict
        return None if self.decision is None else self.decision.verdict

    @property
    def is_about_recipe(self) -> bool:
        """Return whether `verdict` is about the recipes."""
        return self.recipe is not None and self.recipe.df is not None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inapplicable:
    """A registered hypothesis that does not apply to a grid."""

    name: str
    text: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClaimResults:
    """All registered hypotheses of a grid."""

    claims: tuple[Claim, ...]
    inapplicable: tuple[Inapplicable, ...]


def _count(numbers: tuple[int, ...]) -> str:
    """Describe distinct numbers of trainings."""
    if numbers == (1,):
        return "one training"
    if len(numbers) == 1:
        return f"{numbers[0]} trainings"
    joint = "or" if len(numbers) == 2 else "to"  # noqa: PLR2004 - "1 or 3", "1 to 3"
    return f"{numbers[0]} {joint} {numbers[-1]} trainings"
