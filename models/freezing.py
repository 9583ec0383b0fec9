"""Selection of the trainable parts of a model, and a report of their sizes."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.errors import ConfigError
from models.language.adapters import learnable_names, num_weights

if TYPE_CHECKING:
    from models.vlm import VisionLanguageModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezePolicy:
    """Parts of the model that a stage trains."""

    tower: bool = False
    """Not supported, because the tower computes without gradients and its features are cached."""
    connector: bool = True
    """Train the connector."""
    language_model: bool = False
    """Train the language model: its adapters if it has any, else all weights."""

    def __post_init__(self) -> None:
        """Reject unsupported policies."""
        if self.tower:
            raise ConfigError("a trainable tower is not supported; set tower=False")
        if not (self.connector or self.language_model):
            raise ConfigError("the freeze policy trains nothing; set connector or language_model")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FreezeLine:
    """Parameter counts of one part of the model."""

    part: str
    trainable: int
    frozen: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FreezeReport:
    """Trainable and frozen parameters of a model."""

    lines: tuple[FreezeLine, ...]

    @property
    def num_trainable(self) -> int:
        """Number of trainable parameters of all parts."""
        return sum(line.trainable for line in self.lines)

    @property
    def num_frozen(self) -> int:
        """Number of frozen parameters of all parts."""
        return sum(line.frozen for line in self.lines)

    def table(self) -> str:
        """Format the report as a text table."""
        total = FreezeLine(part="total", trainable=self.num_trainable, frozen=self.num_frozen)
        rows = [f"{'part':<16}{'trainable':>16}{'frozen':>16}"]
        rows += [f"{x.part:<16}{x.trainable:>16,}{x.frozen:>16,}" for x in (*self.lines, total)]
        return "\n".join(rows)


def cast_frozen(model: "VisionLanguageModel", dtype: torch.dtype) -> None:
    """Cast frozen weights to a smaller type.

    16-bit matrix products would round them to the same numbers anyway. Buffers (rotary frequencies)
    are not cast.
    """
    _cast_parameters((p for p in _castable(model) if not p.requires_grad), dtype)


def cast_all(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast all weights to a smaller type; buffers are not cast."""
    _cast_parameters(_castable(model), dtype)


def _castable(model: nn.Module) -> list[nn.Parameter]:
    """Return all parameters but those of batch norms, which need the type of their statistics."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for parameter in module.parameters(recurse=False)
    }
    return [parameter for parameter in model.parameters() if id(parameter) not in norms]


def _cast_parameters(parameters: Iterable[torch.nn.Parameter], dtype: torch.dtype) -> None:
    for parameter in parameters:
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def apply_freeze(model: "VisionLanguageModel", policy: FreezePolicy) -> FreezeReport:
    """Set `requires_grad` of every parameter and drop the gradients of frozen ones."""
    flags = {"connector": policy.connector, "language_model": policy.language_model}
    parts = {"tower": model.tower, "connector": model.connector}
    parts["language_model"] = model.language_model
    lines = []
    for name, part in parts.items():
        if part is None:
            continue
        chosen = learnable_names(part) if flags.get(name, False) else frozenset()
        for key, parameter in part.named_parameters():
            parameter.requires_grad_(key in chosen)
            if key not in chosen:
                parameter.grad = None
        count = {True: 0, False: 0}
        for parameter in part.parameters():
            count[parameter.requires_grad] += num_weights(parameter)
        lines.append(FreezeLine(part=name, trainable=count[True], frozen=count[False]))
    return FreezeReport(lines=tuple(lines))
