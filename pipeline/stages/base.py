"""The interface of a stage kind.

A stage kind is one file of this package: a frozen dataclass whose fields determine the result, with
the methods that derive it from a configuration, name its inputs, run it and estimate its cost.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from configuration.run_config import RunConfig
from configuration.trainer import TrainerConfig
from core.process.stop import StopFlag
from pipeline.store.store import StageFolder
from planner.estimator import Estimator, StageEstimate

NodeT = TypeVar("NodeT")


class InputRole(StrEnum):
    """Roles that the result of an upstream stage plays for a stage."""

    FEATURES = "features"
    """Cached features of the frozen vision tower."""
    ALIGN = "align"
    """Weights after stage 1."""
    INSTRUCT = "instruct"
    """Weights after stage 2."""
    ALIGN_TRUNK = "align_trunk"
    """Checkpoints of stage 1 at a constant rate, from which stages of several lengths continue."""
    INSTRUCT_TRUNK = "instruct_trunk"
    """The same of stage 2."""
    TOKENIZER = "tokenizer"
    """A tokenizer trained by this project."""
    INIT = "init"
    """A language model from which pretraining continues."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageContext:
    """Everything a running stage needs besides its own fields."""

    folder: StageFolder
    """Folder of the stage run in the store."""
    inputs: Mapping[str, Path]
    """InputRole -> result folder of the upstream stage run that plays it."""
    cache: Path
    """Scratch folder that may be deleted at any time (token lengths)."""
    trainer: TrainerConfig
    """Execution settings."""
    flag: StopFlag
    """Set when the stage run should save and stop."""
    on_hung: Callable[[str], None]
    """Called with the reason before a training that makes no progress is ended."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(abc.ABC):
    """One stage run: its fields are exactly what determines the result.

    Fields marked `core.config.EXECUTION_ONLY` are the exception; they are not part of the address.
    """

    kind: ClassVar[str]
    """Name of the kind: its folder in the store and its column in reports."""
    recipe_version: ClassVar[int] = 1
    """Part of the address. Raise it when a change of the code changes the results of this kind."""
    upstream: ClassVar[tuple[str, ...]] = ()
    """Kinds whose results this stage reads, where a cell has them; each plays the role of its
    name."""
    is_cache: ClassVar[bool] = False
    """Whether downstream stages could compute the result themselves from what their own addresses
    contain; they then depend on the recipe version only."""
    is_distributed: ClassVar[bool] = False
    """Whether several devices and nodes can share a stage run."""
    uses_all_cores: ClassVar[bool] = False
    """Whether a stage run on a CPU uses every core; otherwise it uses one."""
    memory_fix: ClassVar[str] = ""
    """Settings to change when the stage does not fit into the memory of a GPU."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Return the stage of a cell, or None if cells of this configuration don't have one."""
        del config
        return None

    @classmethod
    def choose_inputs(cls, available: Mapping[str, NodeT]) -> dict[str, NodeT]:
        """Choose among the upstream stages that a cell has (kind -> node); by default, all."""
        return dict(available)

    @property
    def manifests(self) -> tuple[str, ...]:
        """Paths of the manifests that the stage reads; their content is part of the address."""
        return ()

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Model folders that the stage reads; their content is part of the address."""
        return ()

    @property
    def definitions(self) -> Mapping[str, object]:
        """Definitions outside of fields, data and weights that determine the result.

        These are language files and chat templates, by name, in JSON types. They are part of the
        address: who corrects one gets new results, and comments in a file do not matter.
        """
        return {}

    @abc.abstractmethod
    def run(self, context: StageContext) -> None:
        """Compute the result into `context.folder.scratch`; must be able to resume.

        Raises:
            PreemptedError: If `context.flag` was set and the state is saved.
        """

    def estimate(self, estimator: Estimator, *, has_tower: bool, count: int) -> StageEstimate:
        """Estimate the cost of the stage.

        Args:
            estimator: Measures the data and counts the models.
            has_tower: Whether the vision tower runs in this stage (no cached features).
            count: GPUs that share the stage.
        """
        del estimator, has_tower, count
        return StageEstimate()
