"""Fine-tuning methods: full, low-rank adapters (LoRA), and adapters on 4-bit weights (QLoRA).

docs/running/gpus.md explains which method suits which setting.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from core.errors import ConfigError
from core.rng import torch_generator
from models.language.blocks import decoder_blocks

_DOWN, _UP, _ADAPTER = "lora_A", "lora_B", "default"
"""peft's names of an adapter's two matrices and of the adapter."""


class TuningKind(StrEnum):
    """Weights of the language model that are trained in a stage that trains it."""

    FULL = "full"
    """All weights."""
    LORA = "lora"
    """Low-rank adapters on frozen weights (Hu et al. 2021)."""
    QLORA = "qlora"
    """Low-rank adapters on 4-bit (nf4) weights (Dettmers et al. 2023)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Fine-tuning method and adapter sizes, which default to LLaVA-1.5's finetune_lora.sh."""

    kind: TuningKind = TuningKind.FULL
    """Fine-tuning method."""
    rank: int = 128
    """Rank of the adapters."""
    alpha: float = 256.0
    """Scaling: adapters are multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout on the input of the adapters."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rank < 1:
            raise ConfigError(f"tuning.rank must be at least 1, got {self.rank}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"tuning.dropout must be in [0, 1), got {self.dropout}")
        if self.alpha <= 0:
            raise ConfigError(f"tuning.alpha must be positive, got {self.alpha}")


def apply_tuning(
    language_model: nn.Module, config: TuningConfig, *, seed: int, learns: bool
) -> None:
    """Apply a fine-tuning method to a loaded language model, in place.

    Args:
        language_model: Model with its weights; QLoRA expects them on the CPU.
        config: Fine-tuning method.
        seed: Seed of the adapters' initial weights.
        learns: Whether this stage trains (or trained) the language model. If not, no adapters are
            added, but QLoRA still quantises it to 4 bits.
    """
    if config.kind is TuningKind.QLORA:
        quantise(language_model)
    if config.kind is not TuningKind.FULL and learns:
        add_adapters(language_model, config, seed=seed)


def quantise(language_model: nn.Module) -> None:
    """Quantise the linear layers of the decoder blocks to 4 bits (nf4), with bf16 products.

    The constants of each block of 64 weights are quantised as well (QLoRA section 3). Embeddings,
    norms and the output layer are not quantised.
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
        # On some CPUs bitsandbytes repacks weights for inference, with coarser constants.
        new.support_avx512bf16_for_cpu = False
        new.bias = old.bias
        new.weight = Params4bit(
            old.weight.detach().contiguous(),
            requires_grad=False,
            compress_statistics=True,
            quant_type="nf4",
            module=new,
        )
        new.weight = new.weight.to(old.weight.device)  # the move quantises
        language_model.set_submodule(name, new)
    language_model.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft reads it


def add_adapters(language_model: nn.Module, config: TuningConfig, *, seed: int) -> None:
    """Add an adapter to every linear layer of the decoder blocks.

    The first matrix is initialised like `nn.Linear`, seeded by the name of its layer; the second is
    zero, so that the output of the model does not change.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_linear_names(language_model),
    )
    with torch.random.fork_rng(
        devices=[]
    ):  # peft draws from the global generator; its draws are replaced below
        inject_adapter_in_model(lora, language_model, adapter_name=_ADAPTER)
    names = adapter_names(language_model)
    with torch.no_grad():
        for name, parameter in language_model.named_parameters():
            if name in names:  # peft makes adapters of 4-bit weights bf16
                parameter.data = parameter.data.float()
            if _DOWN in name.split("."):
                bound = 1.0 / math.sqrt(parameter.shape[1])
                generator = torch_generator(seed, "adapter", name)
                drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                parameter.copy_(drawn)  # drawn on the CPU: the same on every device


def adapter_names(part: nn.Module) -> frozenset[str]:
    """Return the names of a part's adapter parameters; empty if it has none."""
    return _select_adapters(name for name, _ in part.named_parameters())


def learnable_names(parameters: Mapping[str, nn.Parameter]) -> frozenset[str]:
    """Return the names of the parameters to train in a part: its adapters, or else all weights."""
    all_names = frozenset(name for name, p in parameters.items() if p.is_floating_point())
    return _select_adapters(parameters) or all_names


def _select_adapters(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if {_DOWN, _UP} & set(name.split(".")))


def num_weights(parameter: nn.Parameter) -> int:
    """Count the weights of a parameter; two 4-bit weights share one byte."""
    quantised = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantised is None else math.prod(quantised.shape)


def merge_adapters(language_model: nn.Module) -> None:
    """Merge adapters and dequantise 4-bit weights, in place.

    An adapter is never merged into 4-bit weights, which would round most of it away. It is added to
    the dequantised weights, which are those it was trained with.
    """
    for name, module in list(language_model.named_modules()):
        if hasattr(module, _DOWN) and hasattr(module, "base_layer"):
            plain = _dequantise(module.base_layer)
            delta_OI = _adapter_delta(module).to(plain.weight.device)
            plain.weight.data = (plain.weight.data.float() + delta_OI).to(plain.weight.dtype)
            language_model.set_submodule(name, plain)
    for name, module in list(language_model.named_modules()):
        if isinstance(module, nn.Linear):
            language_model.set_submodule(name, _dequantise(module))
    for mark in ("peft_config", "is_loaded_in_4bit"):
        language_model.__dict__.pop(mark, None)


def _adapter_delta(layer: Any) -> torch.Tensor:
    """Return the update (out, in) of an adapter to the weight of its layer, in float32."""
    down_RI = layer.lora_A[_ADAPTER].weight.detach().float()
    up_OR = layer.lora_B[_ADAPTER].weight.detach().float()
    delta_OI: torch.Tensor = layer.scaling[_ADAPTER] * (up_OR @ down_RI)
    return delta_OI


def _dequantise(layer: nn.Linear) -> nn.Linear:
    """Return a float32 layer for one with 4-bit weights; return any other layer unchanged."""
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
    """Return the full names of the linear layers of the decoder blocks."""
    blocks = set(decoder_blocks(language_model))
    return [
        f"{name}.{inner}"
        for name, block in language_model.named_modules()
        if block in blocks
        for inner, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]
