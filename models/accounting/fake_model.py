"""Models on fake tensors: shapes, types and autograd of the real ones, without memory."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from core.precision import Precision
from models.accounting.shapes import block_linears
from models.any_vlm import AnyVlm
from models.freezing import FreezePolicy, apply_freeze, cast_all, cast_frozen
from models.language.adapters import TuningConfig, TuningKind, adapter_names, add_adapters
from models.language.blocks import decoder_blocks
from models.language.float8 import use_float8
from models.language.generation import decoder_and_output_layer
from models.language.language_model import loading_dtype

_BLOCK, _NESTED_BLOCK = 64, 256
"""Weights that share a constant in nf4, and constants that share one (bitsandbytes)."""


def fill_with_fakes(
    model: AnyVlm,
    mode: FakeTensorMode | torch.device,
    *,
    num_blocks: int,
    tuning: TuningConfig,
    policy: FreezePolicy,
    precision: Precision,
) -> None:
    """Give a model on the meta device the weights that a training stage has, in place.

    bitsandbytes can't quantise fake weights, so 4-bit weights and their constants are made here, in
    the sizes of its format.

    Args:
        model: Model on the meta device.
        mode: Mode of the fake tensors; a device makes real tensors without content.
        num_blocks: Number of decoder blocks to keep.
        tuning: Fine-tuning method of the stage.
        policy: Parts that the stage trains.
        precision: Numeric precision of the stage.
    """
    language_model = model.language_model
    _cut(language_model, num_blocks)
    if tuning.kind is TuningKind.QLORA:
        _replace_linears(language_model)
    if tuning.kind is not TuningKind.FULL and policy.language_model:
        add_adapters(language_model, tuning, seed=0)
    adapters = adapter_names(language_model)
    with mode:
        model._apply(_allocate)  # type: ignore[no-untyped-call]
        language_model.tie_weights()
        for name, parameter in language_model.named_parameters():
            if name not in adapters:
                parameter.data = parameter.data.to(loading_dtype(precision))
        if tuning.kind is TuningKind.QLORA:
            _quantise(language_model)
        apply_freeze(model, policy)
        if precision is not Precision.FLOAT32:
            cast_frozen(model, torch.bfloat16)
        if precision is Precision.BF16_TRUE:
            cast_all(model, torch.bfloat16)
        if precision is Precision.FLOAT8_MIXED:
            use_float8(language_model, is_emulated=False)


@contextlib.contextmanager
def dropout_of_a_gpu() -> Iterator[None]:
    """Let dropout keep a mask of one byte per element, as on a GPU; on a CPU it keeps factors."""

    def dropout(values: torch.Tensor, p: float, training: Any, inplace: Any) -> torch.Tensor:
        del inplace
        return torch.native_dropout(values, p, training)[0] if training and p else values

    replacement: Any = dropout
    real, functional.dropout = functional.dropout, replacement
    try:
        yield
    finally:
        functional.dropout = real


def constants_of(parameter: torch.Tensor) -> list[torch.Tensor]:
    """Return the constants of a 4-bit weight; none for any other weight."""
    state = getattr(parameter, "quant_state", None)
    states = [] if state is None else [state, state.state2]
    values = [value for state in states for value in vars(state).values()]
    return [value for value in values if isinstance(value, torch.Tensor)]


def _allocate(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _cut(language_model: nn.Module, num_blocks: int) -> None:
    decoder: Any = decoder_and_output_layer(language_model)[0]
    decoder.layers = nn.ModuleList(decoder_blocks(language_model)[:num_blocks])
    decoder.config.num_hidden_layers = num_blocks


def _replace_linears(language_model: Any) -> None:
    """Replace the layers that `models.language.adapters.quantise` replaces, without weights."""
    from bitsandbytes.nn import Linear4bit

    names = {id(module): name for name, module in language_model.named_modules()}
    for linear in block_linears(language_model):
        new = Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=torch.bfloat16,
            device="meta",
        )
        new.support_avx512bf16_for_cpu = False
        language_model.set_submodule(names[id(linear)], new)
    language_model.is_loaded_in_4bit = True  # peft reads it


def _quantise(language_model: nn.Module) -> None:
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit

    for module in language_model.modules():
        if not isinstance(module, Linear4bit):
            continue
        shape = module.weight.shape
        num_constants = math.ceil(shape.numel() / _BLOCK)
        nested = QuantState(
            absmax=torch.empty(math.ceil(num_constants / _NESTED_BLOCK)),
            code=torch.empty(256),
            blocksize=_NESTED_BLOCK,
            dtype=torch.float32,
        )
        packed = torch.empty(shape.numel() // 2, 1, dtype=torch.uint8)
        weight: Any = nn.Parameter(packed, requires_grad=False)
        weight.quant_state = QuantState(
            absmax=torch.empty(num_constants, dtype=torch.uint8),
            shape=shape,
            code=torch.empty(16),
            blocksize=_BLOCK,
            quant_type="nf4",
            dtype=torch.float32,
            offset=torch.empty(()),
            state2=nested,
        )
        module.weight = weight
