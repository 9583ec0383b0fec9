"""Parameter, activation and FLOP counts of a model, from its shape alone.

Parameters are counted on the meta device. The activations of a decoder block are counted by running
it there, because PyTorch reports which tensors it saves for the backward pass.
"""

import copy
import dataclasses
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.accounting.shapes import EmptyVlm, block_linears
from models.language.adapters import TuningConfig, TuningKind
from models.language.blocks import decoder_blocks
from models.language.generation import decoder_and_output_layer
from models.towers.vision_tower import VisionTower

_ATTENTION_NAME = "irudimen_footprint"
_PROBE_TOKENS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Counts of one model under one fine-tuning method, in weights unless stated otherwise."""

    tower: int
    connector: int
    language_model: int
    """All weights except adapters."""
    quantisable: int
    """Weights of the decoder blocks' matrices, which QLoRA quantises to 4 bits."""
    adapters: int
    block: int
    """Weights of one decoder block."""
    num_blocks: int
    hidden_size: int
    inner_size: int
    """Inner width of a block's feed-forward layers."""
    cache_width: int
    """Number of key and value elements of one token in one block."""
    vocab_size: int
    num_image_tokens: int
    image_flops: float
    """FLOPs of the tower's forward pass for one image."""
    image_bytes: int
    """Size of the pixels of one image in float32."""


def footprint(vlm: EmptyVlm, tuning: TuningConfig) -> Footprint:
    """Count a model that is on the meta device."""
    language_model: Any = vlm.model.language_model
    config = language_model.config
    blocks = decoder_blocks(language_model)
    linears = block_linears(language_model)
    sizes = [linear.in_features + linear.out_features for linear in linears]
    has_adapters = tuning.kind is not TuningKind.FULL
    size = vlm.tower.transform.size
    return Footprint(
        tower=_count_parameters(vlm.tower),
        connector=_count_parameters(vlm.model.connector),
        language_model=_count_parameters(language_model),
        quantisable=sum(linear.weight.numel() for linear in linears),
        adapters=tuning.rank * sum(sizes) if has_adapters else 0,
        block=_count_parameters(blocks[0]),
        num_blocks=len(blocks),
        hidden_size=config.hidden_size,
        inner_size=config.intermediate_size,
        cache_width=2 * config.num_key_value_heads * config.head_dim,
        vocab_size=config.vocab_size,
        num_image_tokens=vlm.tower.num_image_tokens,
        image_flops=tower_flops(vlm.tower),
        image_bytes=4 * 3 * size * size,
    )


def saved_bytes_per_token(
    vlm: EmptyVlm, tuning: TuningConfig, *, learns: bool, dtype: torch.dtype
) -> float:
    """Count the bytes per token that one decoder block saves for the backward pass.

    Weights are not counted. Attention is assumed to be a flash kernel, which saves its inputs, its
    output and one number per head.

    Args:
        vlm: Model on the meta device.
        tuning: Fine-tuning method of stages that train the language model.
        learns: Whether this stage trains the language model; if not, it only propagates gradients.
        dtype: Type of the activations.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_ATTENTION_NAME, _attention)
    language_model: Any = vlm.model.language_model
    decoder: Any = decoder_and_output_layer(language_model)[0]
    block: Any = copy.deepcopy(decoder_blocks(language_model)[0]).to(dtype)
    config = copy.deepcopy(language_model.config)
    config._attn_implementation = _ATTENTION_NAME
    for module in block.modules():
        if hasattr(module, "config"):
            module.config = config
    block.requires_grad_(learns and tuning.kind is TuningKind.FULL)
    if learns and tuning.kind is not TuningKind.FULL:
        _add_adapters(block, tuning.rank, dtype)
    with torch.device("meta"):
        hidden_BTD = torch.empty(1, _PROBE_TOKENS, config.hidden_size, dtype=dtype)
        positions_BT = torch.arange(_PROBE_TOKENS)[None]
        angles = decoder.rotary_emb(hidden_BTD, positions_BT)
    saved = _SavedTensors(block)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        block(
            hidden_BTD.requires_grad_(),
            position_embeddings=angles,
            attention_mask=None,
            position_ids=positions_BT,
        )
    return saved.num_bytes / _PROBE_TOKENS


class _SavedTensors:
    """Distinct storages of the tensors that autograd saves, without those of parameters."""

    def __init__(self, block: nn.Module) -> None:
        self._held = [parameter.untyped_storage() for parameter in block.parameters()]
        self._known = {storage._cdata for storage in self._held}
        self.num_bytes = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count the storage of a tensor."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._held.append(storage)  # keep it alive, so that its address is not reused
            self.num_bytes += storage.nbytes()
        return tensor


class _FlashLikeAttention(torch.autograd.Function):
    """Attention that saves what flash attention saves, and computes nothing."""

    @staticmethod
    def forward(
        context: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Return an output of the query's shape."""
        output = torch.empty_like(query)
        per_head = query.new_empty(query.shape[:-1], dtype=torch.float32)
        context.save_for_backward(query, key, value, output, per_head)
        return output

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        """Not supported: only the forward pass is measured."""
        raise NotImplementedError


def _attention(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    **_settings: Any,
) -> tuple[torch.Tensor, None]:
    output: torch.Tensor = _FlashLikeAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2), None


class _AdaptedLinear(nn.Module):
    """Frozen linear layer with an adapter."""

    def __init__(self, base: nn.Linear, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = base
        settings: Any = {"bias": False, "device": "meta", "dtype": dtype}
        self.down = nn.Linear(base.in_features, rank, **settings)
        self.up = nn.Linear(rank, base.out_features, **settings)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the sum of both paths."""
        outputs: torch.Tensor = self.base(inputs) + self.up(self.down(inputs))
        return outputs


def _add_adapters(block: nn.Module, rank: int, dtype: torch.dtype) -> None:
    for name, module in list(block.named_modules()):
        if isinstance(module, nn.Linear):
            block.set_submodule(name, _AdaptedLinear(module, rank, dtype))


def _count_parameters(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def tower_flops(tower: VisionTower) -> float:
    """Count the FLOPs of the forward pass for one image."""
    size = tower.transform.size
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        tower(torch.empty(1, 3, size, size))
    return float(counter.get_total_flops())
