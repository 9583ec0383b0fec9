"""Subjects of the measurement: a ready-made class or an architecture, in a tiny study."""

import abc
import dataclasses
import sys
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch

from benchmarks.model_classes.architecture import ARCHITECTURES, measure_architecture
from benchmarks.model_classes.forward import measure_forward
from experiments import run
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from models.connector import get_connector_class
from pipeline.grid_plan import GridPlan
from tests.support import ranks, ready_world
from tests.support import small_world as worlds
from tests.support.models.ready_made import PACKED
from tests.support.ranks import World

CLASSES = tuple(PACKED)
"""Names of the ready-made classes that are measured."""
SUBJECTS = (*CLASSES, *ARCHITECTURES)
"""Names of everything that is measured."""
_ADAPTERS = ("instruct.tuning.rank=2", "instruct.optim.lr=0.002")
"""Settings of LoRA and QLoRA, whose rank and learning rate are those of large models otherwise."""

_FACTOR = 10
"""Enlargement of the weights of the random language model behind an architecture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject(abc.ABC):
    """A model in a folder, which must be the working directory."""

    earlier_stages: ClassVar[tuple[str, ...]] = ()
    """Kinds of the stage runs that precede the measured one."""
    name: str
    folder: Path

    def plan(self, root: str, *settings: str) -> GridPlan:
        """Return the plan of the cell under some settings."""
        words = self.arguments(root, *settings)
        return make_plan(request_of(run.build_parser().parse_args(words)))

    def world(self, *settings: str) -> World:
        """Return the stage runs of the cell under some settings."""
        return World(folder=self.folder, graph=self.plan("one", *settings).graph)

    def adapters(self, tuning: str) -> tuple[str, ...]:
        """Return the settings of training with adapters."""
        return (f"instruct.tuning.kind={tuning}", *_ADAPTERS)

    @abc.abstractmethod
    def arguments(self, root: str, *settings: str) -> tuple[str, ...]:
        """Return the command line of the cell under some settings."""

    @abc.abstractmethod
    def formats(self, tuning: str) -> tuple[str, ...]:
        """Return the formats of an export after full, LoRA or QLoRA training."""

    @abc.abstractmethod
    def image(self, number: int) -> bytes:
        """Return one of the images that are asked about."""

    @abc.abstractmethod
    def measure_forward(self) -> dict[str, Any]:
        """Compare packed rows and greedy decoding with a reference."""


class ReadyMadeClass(Subject):
    """A class of transformers."""

    def arguments(self, root: str, *settings: str) -> tuple[str, ...]:
        """Return the command line of the cell under some settings."""
        return ready_world.grid_arguments(root, *(("--set", *settings) if settings else ()))

    def adapters(self, tuning: str) -> tuple[str, ...]:
        """Return the settings under which adapters can be exported alone.

        PEFT stores whole modules; a parameter outside of a module (LLaVA-OneVision's
        `image_newline`) is frozen with the connector.
        """
        settings = super().adapters(tuning)
        if self.name == "llava_onevision":
            settings += ("instruct.policy={connector: false, language_model: true}",)
        return settings

    def formats(self, tuning: str) -> tuple[str, ...]:
        """Return the formats that plain transformers loads."""
        return ("hf", "peft") if tuning == "lora" else ("hf",)

    def image(self, number: int) -> bytes:
        """Return an image of one of ten shapes."""
        return ready_world.sized_image(number)

    def measure_forward(self) -> dict[str, Any]:
        """Compare with the class's own forward pass."""
        return measure_forward(self.folder / "data" / "vlm")


class Architecture(Subject):
    """A vision tower, a connector of some kind, and a language model."""

    earlier_stages = ("features", "align")

    def arguments(self, root: str, *settings: str) -> tuple[str, ...]:
        """Return the command line of the cell under some settings."""
        steps = [f"{stage}.num_steps={ranks.NUM_STEPS}" for stage in ("align", "instruct")]
        own = [f"model.connector.kind={self.name}"]
        own += [f"model.connector.options.{self.name}={ARCHITECTURES[self.name]}"]
        used = own if ARCHITECTURES[self.name] else own[:1]
        return worlds.grid_arguments(root, "--set", *steps, *used, *settings)

    def adapters(self, tuning: str) -> tuple[str, ...]:
        """Return the settings of adapters; cross-attention leaves the language model frozen."""
        settings = super().adapters(tuning)
        if not get_connector_class(self.name).trains_language_model:
            settings += ("instruct.policy.language_model=true",)
        return settings

    def formats(self, tuning: str) -> tuple[str, ...]:
        """Return LLaVA's format where it has the architecture, otherwise our own."""
        del tuning
        return ("hf",) if self.name in {"linear", "mlp2x_gelu"} else ("irudimen",)

    def image(self, number: int) -> bytes:
        """Return an image."""
        return worlds.image(number)

    def measure_forward(self) -> dict[str, Any]:
        """Compare with a model of the same weights that is built from transformers."""
        return measure_architecture(self.name)


def build_subject(name: str, folder: Path) -> Subject:
    """Write data and model of a tiny study to the working directory."""
    _forget_models()
    if name in ARCHITECTURES:
        worlds.build_world(folder)
        _enlarge_weights(folder / "data" / "lm" / "model.safetensors")
        return Architecture(name=name, folder=folder)
    ready_world.build_ready_world(folder, name)
    return ReadyMadeClass(name=name, folder=folder)


def _enlarge_weights(path: Path) -> None:
    """Multiply the matrices of a random model, so that its answers depend on the questions."""
    state = safetensors.torch.load_file(path)
    larger = {
        name: tensor * _FACTOR if tensor.ndim > 1 else tensor for name, tensor in state.items()
    }
    safetensors.torch.save_file(larger, path)


def _forget_models() -> None:
    """Forget what plans have cached about models: every subject has its model at the same path."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("planner.", "configuration.")):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
