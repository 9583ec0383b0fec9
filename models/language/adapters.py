"""How the language model is tuned: every weight, or low-rank adapters, also on 4-bit weights.

What is sound where, and why: docs/running/gpus.md.
"""

import dataclasses
import math
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from core.errors import ConfigError
from core.rng import torch_generator
from models.language.blocks import decoder_blocks

_DOWN, _UP, _ADAPTER = "lora_A", "lora_B", "default"
"""peft's names of the two matrices of an adapter, and of the adapter."""


class TuningKind(StrEnum):
    """What of the language model learns where it learns at all."""

    FULL = "full"
    """Every weight."""
    LORA = "lora"
    """Low-rank adapters beside frozen weights (Hu et al. 2021)."""
    QLORA = "qlora"
    """The same beside 4-bit (nf4) weights (Dettmers et al. 2023)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Kind and size of the tuning; the sizes are those of LLaVA-1.5's finetune_lora.sh."""

    kind: TuningKind = TuningKind.FULL
    """What learns."""
    rank: int = 128
    """Rank of the adapters."""
    alpha: float = 256.0
    """Their scale is alpha / rank."""
    dropout: float = 0.05
    """Dropout before the adapters."""

    def __post_init__(self) -> None:
        """Check the numbers that have no type to protect them."""
        if self.rank < 1:
            raise ConfigError(f"tuning.rank must be at least 1, got {self.rank}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"tuning.dropout must lie in 0..1, got {self.dropout}")
        if self.alpha <= 0:
            raise ConfigError(f"tuning.alpha must be positive, got {self.alpha}")


def tune(language_model: nn.Module, config: TuningConfig, *, seed: int, learns: bool) -> None:
    """Make of a loaded language model what a tuning wants, in place.

    Args:
        language_model: with its weights, on the CPU.
        config: which tuning.
        seed: seed of the adapters' first weights.
        learns: whether this stage trains the language model (or trained it); where it doesn't
            there are no adapters, but QLoRA keeps it in 4 bits all the same.
    """
    if config.kind is TuningKind.QLORA:
        quantise(language_model)
    if config.kind is not TuningKind.FULL and learns:
        add_adapters(language_model, config, seed=seed)


def quantise(language_model: nn.Module) -> None:
    """Replace the linear layers of the decoder blocks by 4-bit ones: nf4, bf16 products.

    The constants of each block of 64 weights are quantised as well (QLoRA section 3). Embeddings,
    norms and the output layer stay as they are.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name in _linear_names(language_model):
        old: Any = language_model.get_submodule(name)
        new = Linear4bit(
            old.in_features,
            old.out_features,
            bias=old.bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        # On some CPUs bitsandbytes lays weights out anew for answering, with coarser constants.
        new.support_avx512bf16_for_cpu = False
        new.bias = old.bias
        new.weight = Params4bit(
            old.weight.detach().contiguous(),
            requires_grad=False,
            compress_statistics=True,
            quant_type="nf4",
            module=new,
        )
        new.weight = new.weight.to(old.weight.device)  # this is what quantises
        language_model.set_submodule(name, new)
    language_model.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft asks for it


def add_adapters(language_model: nn.Module, config: TuningConfig, *, seed: int) -> None:
    """Put an adapter beside every linear layer of the decoder blocks.

    The first matrix is drawn as `nn.Linear` does, by the name of its layer; the second is 0, so
    that the model computes what it did.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_linear_names(language_model),
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; we draw anew
        inject_adapter_in_model(lora, language_model, adapter_name=_ADAPTER)
    names = adapter_names(language_model)
    with torch.no_grad():
        for name, parameter in language_model.named_parameters():
            if name in names:  # beside 4-bit weights peft makes them bf16
                parameter.data = parameter.data.float()
            if _DOWN in name.split("."):
                bound = 1.0 / math.sqrt(parameter.shape[1])
                generator = torch_generator(seed, "adapter", name)
                parameter.uniform_(-bound, bound, generator=generator)


def adapter_names(part: nn.Module) -> frozenset[str]:
    """Names of the parameters of a part's adapters; empty where it has none."""
    names = (name for name, _ in part.named_parameters())
    return frozenset(name for name in names if {_DOWN, _UP} & set(name.split(".")))


def learnable_names(part: nn.Module) -> frozenset[str]:
    """Names of what learns in a part that learns: its adapters, or else all its weights."""
    every = frozenset(name for name, p in part.named_parameters() if p.is_floating_point())
    return adapter_names(part) or every


def num_weights(parameter: nn.Parameter) -> int:
    """Numbers in a parameter; two 4-bit ones lie in a byte."""
    quantised = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantised is None else math.prod(quantised.shape)


def merge_adapters(language_model: nn.Module) -> None:
    """Make a plain model of a tuned one, in place: adapters added, 4-bit weights written out.

    An adapter is never merged into 4-bit weights, which would round most of it away: it is added
    to the numbers that they stand for, and those it was trained beside.
    """
    for name, module in list(language_model.named_modules()):
        if hasattr(module, _DOWN) and hasattr(module, "base_layer"):
            plain = _written_out(module.base_layer)
            delta_OI = _delta(module).to(plain.weight.device)
            plain.weight.data = (plain.weight.data.float() + delta_OI).to(plain.weight.dtype)
            language_model.set_submodule(name, plain)
    for name, module in list(language_model.named_modules()):
        if isinstance(module, nn.Linear):
            language_model.set_submodule(name, _written_out(module))
    for mark in ("peft_config", "is_loaded_in_4bit"):
        language_model.__dict__.pop(mark, None)


def _delta(layer: Any) -> torch.Tensor:
    """What an adapter adds to the weight (out, in) of its layer, in float32."""
    down_RI = layer.lora_A[_ADAPTER].weight.detach().float()
    up_OR = layer.lora_B[_ADAPTER].weight.detach().float()
    delta_OI: torch.Tensor = layer.scaling[_ADAPTER] * (up_OR @ down_RI)
    return delta_OI


def _written_out(layer: nn.Linear) -> nn.Linear:
    """The layer itself, or a plain one with the float32 numbers of its 4-bit weights."""
    quantised = getattr(layer.weight, "quant_state", None)
    if quantised is None:
        return layer
    from bitsandbytes.functional import dequantize_4bit

    weight_OI = dequantize_4bit(layer.weight.data, quantised).float()
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(weight_OI, requires_grad=False)
    plain.bias = layer.bias
    return plain


def _linear_names(language_model: nn.Module) -> list[str]:
    """Full names of the linear layers of the decoder blocks."""
    blocks = set(decoder_blocks(language_model))
    return [
        f"{name}.{inner}"
        for name, block in language_model.named_modules()
        if block in blocks
        for inner, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]
