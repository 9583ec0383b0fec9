"""Levels of knowledge of the target language, defined by published figures.

The measure is the score above chance in the target language relative to the same in the base
language, averaged over tasks (published) or types of questions (here).
"""

import dataclasses
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from statistics import mean

from core.config import load_config

FILE = Path("configs/recipes/knowledge_levels.yaml")


class Level(StrEnum):
    """Level of knowledge of the target language."""

    BASE_ONLY = "base_only"
    """The model has never seen the target language."""
    PARTIAL = "partial"
    """The model knows it as well as Llama-3.1-8B-Instruct knows Basque."""
    ADAPTED = "adapted"
    """The model knows it at least as well as Latxa knows Basque."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Accuracies of a model on one task, in percent."""

    base: float
    """Accuracy in the base language."""
    target: float
    """Accuracy in the target language."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedTask:
    """A task with figures of two models in both languages."""

    num_options: int
    """Number of answers to choose from."""
    partial: Accuracies
    """Accuracies of the model with partial knowledge."""
    adapted: Accuracies
    """Accuracies of the model that was adapted to the target language."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnowledgeLevels:
    """Definition of the levels."""

    tasks: dict[str, PublishedTask]
    """Published figures by task."""
    tolerance: float
    """Largest difference of a measured ratio from the defining one."""

    @property
    def partial(self) -> float:
        """Ratio that defines partial knowledge."""
        return mean(_ratio(task.partial, task.num_options) for task in self.tasks.values())

    @property
    def adapted(self) -> float:
        """Ratio of the adapted model, relative to its own score in the base language."""
        return mean(_ratio(task.adapted, task.num_options) for task in self.tasks.values())

    @property
    def base_score(self) -> float:
        """Score above chance in the base language of the model with partial knowledge.

        It is a share of the largest possible score above chance, averaged over the tasks.
        """
        return mean(
            above_chance(task.partial.base / 100, 1 / task.num_options)
            for task in self.tasks.values()
        )

    def level_of(self, ratio: float) -> Level | None:
        """Return the level that a measured ratio meets, or None if it is between levels."""
        if ratio <= self.tolerance:
            return Level.BASE_ONLY
        if abs(ratio - self.partial) <= self.tolerance:
            return Level.PARTIAL
        return Level.ADAPTED if ratio >= self.adapted - self.tolerance else None


def load_levels(path: Path = FILE) -> KnowledgeLevels:
    """Read the definition."""
    return load_config(KnowledgeLevels, path)


def above_chance(accuracy: float, chance: float) -> float:
    """Return a score that is 0 for guessing and 1 if every answer is right."""
    return (accuracy - chance) / (1 - chance)


def relative_score(base: Sequence[float], target: Sequence[float]) -> float:
    """Return the mean of the ratios of scores above chance, one pair per task or type.

    A base score of 0 or less has no ratio; the result is then not a number.
    """
    ratios = [b / a if a > 0 else float("nan") for a, b in zip(base, target, strict=True)]
    return mean(ratios)


def _ratio(figures: Accuracies, num_options: int) -> float:
    chance = 1 / num_options
    scores = [above_chance(value / 100, chance) for value in (figures.base, figures.target)]
    return relative_score(scores[:1], scores[1:])
