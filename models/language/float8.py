"""Matrix products of the decoder blocks in float8, scaled row by row, with torchao.

torchao's recipe `rowwise`, as torchtitan uses it: each product of a linear layer, forward and
backward, takes its operands in float8 (e4m3) with one scale, a power of two, for each row or
column of an operand, computed in every step. Weights, gradients, embeddings, norms, output layer,
connector and tower keep their types. Under FSDP2 weights are gathered in bfloat16: torchao gathers
in float8 only with one scale per tensor.
"""

import dataclasses
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from core.errors import ConfigError
from models.language.blocks import decoder_blocks

RECIPE = "rowwise"
"""Name of torchao's recipe."""
_MULTIPLE = 16
"""The products need sizes that this number divides; rows of a micro-batch have multiples of 128."""
_MIN_CAPABILITY = 8, 9
"""Lowest compute capability with float8 products (Ada; Hopper has 9.0)."""
_INSTEAD = "set trainer.precision=bf16-mixed"


def check_float8(device: torch.device) -> None:
    """Check that a device has float8 products; a CPU emulates them, for tests.

    Raises:
        ConfigError: If torchao is missing, or the device has no float8 products.
    """
    check_torchao()
    if device.type == "cpu":
        return
    if device.type != "cuda":
        raise ConfigError(f"trainer.precision=float8-mixed needs a CUDA GPU, not {device.type}; "
                          f"{_INSTEAD}")  # fmt: skip
    capability = torch.cuda.get_device_capability(device)
    if capability < _MIN_CAPABILITY:
        found, needed = (".".join(map(str, pair)) for pair in (capability, _MIN_CAPABILITY))
        raise ConfigError(
            f"trainer.precision=float8-mixed: {torch.cuda.get_device_name(device)} has compute "
            f"capability {found}, but float8 products need {needed} or later (L40S, H100); "
            f"{_INSTEAD}"
        )


def use_float8(language_model: nn.Module, *, is_emulated: bool) -> None:
    """Replace the linear layers of the decoder blocks, in place; weights and names stay.

    Args:
        language_model: Model without adapters and 4-bit weights.
        is_emulated: Whether the products are computed in float32 on rounded operands, for CPUs.

    Raises:
        ConfigError: If torchao is missing, or the size of a layer is not divisible by 16.
    """
    check_torchao()
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig.from_recipe_name(RECIPE)
    config = dataclasses.replace(config, emulate=is_emulated)
    for block in decoder_blocks(language_model):
        for name, linear in block.named_modules():
            if isinstance(linear, nn.Linear):
                _check_sizes(name, linear)
        convert_to_float8_training(block, config=config)
        for linear in block.modules():
            if isinstance(linear, nn.Linear):
                linear.register_forward_pre_hook(_cast_as_autocast)


def has_torchao() -> bool:
    """Return whether torchao is installed: it is optional, because transformers imports it."""
    return find_spec("torchao") is not None


def check_torchao() -> None:
    """Check that torchao is installed.

    Raises:
        ConfigError: If torchao is missing.
    """
    if not has_torchao():
        raise ConfigError(
            "trainer.precision=float8-mixed needs the package torchao, which is not installed: "
            f"pip install '.[float8]', or {_INSTEAD}"
        )


def _check_sizes(name: str, linear: nn.Linear) -> None:
    sizes = linear.in_features, linear.out_features
    if any(size % _MULTIPLE for size in sizes):
        raise ConfigError(
            f"trainer.precision=float8-mixed: layer {name} of the decoder blocks has {sizes[0]} "
            f"inputs and {sizes[1]} outputs; float8 products need multiples of {_MULTIPLE}. "
            f"{_INSTEAD.capitalize()}"
        )


def _cast_as_autocast(_linear: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Cast the input of a layer as autocast does on a CPU: torchao does so on CUDA only."""
    if not torch.is_autocast_enabled("cpu"):
        return None
    return (inputs[0].to(torch.get_autocast_dtype("cpu")), *inputs[1:])
