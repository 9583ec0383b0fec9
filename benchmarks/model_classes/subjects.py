"""Subjects of the measurement: every ready-made class, as the cell of a tiny study."""

import dataclasses
import sys
from pathlib import Path

from experiments import run
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from pipeline.grid_plan import GridPlan
from tests.support import ready_world
from tests.support.models.ready_made import PACKED
from tests.support.ranks import World

SUBJECTS = tuple(PACKED)
"""Names of the classes that are measured."""
ADAPTERS = ("instruct.tuning.rank=2", "instruct.optim.lr=0.002")
"""Settings of LoRA and QLoRA, whose rank and learning rate are those of large models otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A class in a folder, which must be the working directory."""

    name: str
    folder: Path

    def plan(self, root: str, *settings: str) -> GridPlan:
        """Return the plan of the cell under some settings."""
        words = ready_world.grid_arguments(root, *(("--set", *settings) if settings else ()))
        return make_plan(request_of(run.build_parser().parse_args(words)))

    def world(self, *settings: str) -> World:
        """Return the stage runs of the cell under some settings."""
        return World(folder=self.folder, graph=self.plan("one", *settings).graph)


def build_subject(name: str, folder: Path) -> Subject:
    """Write data and model of a tiny study to the working directory."""
    _forget_models()
    ready_world.build_ready_world(folder, name)
    return Subject(name=name, folder=folder)


def _forget_models() -> None:
    """Forget what plans have cached about models: every subject has its model at the same path."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("planner.", "configuration.")):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
