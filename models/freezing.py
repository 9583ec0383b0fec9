"""Selection of the trainable parts of a model, and a report of their sizes."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.errors import ConfigError
from models.language.adapters import learnable_names, num_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezePolicy:
    """Parts of the model that a stage trains."""

    tower: bool = False
    """Train the vision encoder of a ready-made model. The tower of a composed model computes
    without gradients, and its features are cached."""
    connector: bool = True
    """Train the connector."""
    language_model: bool = False
    """Train the language model: its adapters if it has any, else all weights."""

    def __post_init__(self) -> None:
        """Reject a policy that trains nothing."""
        if not (self.tower or self.connector or self.language_model):
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


def cast_frozen(model: nn.Module, dtype: torch.dtype) -> None:
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


class Freezable(Protocol):
    """A model whose parts can be trained or frozen."""

    @property
    def has_trainable_tower(self) -> bool:
        """True if its vision encoder computes with gradients."""

    def named_parts(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Return the parameters of every part by name; parts are named as in `FreezePolicy`."""


def apply_freeze(model: Freezable, policy: FreezePolicy) -> FreezeReport:
    """Set `requires_grad` of every parameter and drop the gradients of frozen ones.

    Raises:
        ConfigError: If the policy trains a tower that computes without gradients.
    """
    if policy.tower and not model.has_trainable_tower:
        raise ConfigError(
            "the tower of a composed model can't be trained, because it computes without "
            "gradients; set tower=False"
        )
    lines = []
    for part, parameters in model.named_parts().items():
        chosen = learnable_names(parameters) if getattr(policy, part) else frozenset()
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in chosen)
            if name not in chosen:
                parameter.grad = None
        count = {True: 0, False: 0}
        for parameter in parameters.values():
            count[parameter.requires_grad] += num_weights(parameter)
        lines.append(FreezeLine(part=part, trainable=count[True], frozen=count[False]))
    return FreezeReport(lines=tuple(lines))
