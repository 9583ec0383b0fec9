"""Stage kinds `align_trunk` and `instruct_trunk`: trainings at a constant rate with checkpoints.

Stages of several lengths continue from these checkpoints with a decreasing rate
(warmup-stable-decay), so that N lengths cost little more than the longest one.
"""

import dataclasses
import os
import shutil
from typing import ClassVar, Self

from callbacks.checkpoint_files import checkpoint_folder
from configuration.run_config import RunConfig, TrainConfig
from core.errors import UnsavedError
from core.io.sealed_folder import find_damage
from lightning_modules.vlm_module import VlmModule
from pipeline.assemble_trained import ModelParts
from pipeline.stages.align import AlignStage
from pipeline.stages.base import StageContext
from pipeline.stages.instruct import InstructStage
from pipeline.stages.training import TrainingStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrunkStage(TrainingStage):
    """A training stage without the decrease of its rate; its result is a list of checkpoints."""

    branch_points: tuple[int, ...]
    """Steps at which the whole state is saved; the last one ends the trunk."""

    @classmethod
    def _of(cls, stage: TrainingStage | None, config: TrainConfig) -> Self | None:
        """Return the trunk of a stage, which is the same for every length; None if it has none."""
        if stage is None or not config.branch_points:
            return None
        fields = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)}
        points = tuple(config.branch_points)
        fields |= {
            "optim": dataclasses.replace(config.optim, decay_fraction=0.0),
            "num_steps": points[-1],
            "branch_at": None,
        }
        return cls(**fields, branch_points=points)

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """The branch points."""
        return self.branch_points

    @property
    def stream_steps(self) -> int:
        """One step more than are trained: the last checkpoint is not the end of the data."""
        return self.num_steps + 1

    def save_result(
        self, context: StageContext, parts: ModelParts, module: VlmModule, *, is_writer: bool
    ) -> None:
        """Add the checkpoints of all branch points to the result.

        Raises:
            UnsavedError: If one could not be written. Later ones are removed, so that the next
                attempt trains again from the one before it.
        """
        del parts, module
        if not is_writer:
            return
        folder = context.folder.checkpoints
        for point in self.branch_points:
            if reason := find_damage(checkpoint_folder(folder, point)):
                for later in folder.glob("step=*"):
                    if later.name >= checkpoint_folder(folder, point).name:
                        shutil.rmtree(later)
                raise UnsavedError(
                    f"the checkpoint of branch point {point} is missing in {folder} ({reason}); "
                    "free space and rerun the command: it resumes from the one before"
                )
        for point in self.branch_points:
            target = checkpoint_folder(context.folder.scratch, point)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(checkpoint_folder(folder, point), target, copy_function=_link_or_copy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignTrunkStage(_TrunkStage):
    """Stage 1 at a constant rate."""

    kind: ClassVar[str] = "align_trunk"
    upstream: ClassVar[tuple[str, ...]] = ("features",)

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Return the trunk of stage 1, if stages of several lengths share one."""
        return cls._of(AlignStage.from_config(config), config.align)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructTrunkStage(_TrunkStage):
    """Stage 2 at a constant rate."""

    kind: ClassVar[str] = "instruct_trunk"
    upstream: ClassVar[tuple[str, ...]] = ("features", "align")

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Return the trunk of stage 2, if stages of several lengths share one."""
        return cls._of(InstructStage.from_config(config), config.instruct)


def _link_or_copy(source: str, target: str) -> str:
    """Link a file, or copy it where links are not possible."""
    try:
        os.link(source, target)
    except OSError:
        return str(shutil.copy2(source, target))
    return target
