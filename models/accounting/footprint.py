"""Parameter and FLOP counts of a model on the meta device, from its shape alone."""

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.accounting.shapes import EmptyVlm, block_linears
from models.connector import Connector
from models.language.adapters import TuningConfig, TuningKind
from models.language.blocks import decoder_blocks
from models.language.generation import decoder_and_output_layer
from models.towers.vision_tower import VisionTower

_PROBE_TOKENS = 64


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
    output_layer: int
    """Weights of the output layer."""
    has_tied_embeddings: bool
    """Whether the output layer is the table of embeddings."""
    hidden_size: int
    inner_size: int
    """Inner width of a block's feed-forward layers."""
    cache_width: int
    """Number of key and value elements of one token in one block."""
    vocab_size: int
    num_features: int
    """Features that the tower gives of an image."""
    num_image_tokens: int
    """Positions that an image takes in the text."""
    connector_image_flops: float
    """FLOPs of the connector's forward pass for one image."""
    connector_token_flops: float
    """FLOPs of its forward pass for one token that follows an image, if it works inside the
    decoder."""
    connector_token_values: float
    """Numbers that it keeps of such a token for the backward pass."""
    image_flops: float
    """FLOPs of the tower's forward pass for one image."""
    image_bytes: int
    """Size of the pixels of one image in float32."""
    image_kept: int = 0
    """Values that a vision encoder in training keeps for the backward pass of one image; 0 for one
    that is always frozen."""


def footprint(vlm: EmptyVlm, tuning: TuningConfig) -> Footprint:
    """Count a model that is on the meta device."""
    language_model: Any = vlm.model.language_model
    num_features = vlm.tower.num_image_tokens
    config = language_model.config
    token_flops, token_values = _inside_costs(vlm.model.connector, num_features, config.hidden_size)
    blocks = decoder_blocks(language_model)
    linears = block_linears(language_model)
    sizes = [linear.in_features + linear.out_features for linear in linears]
    has_adapters = tuning.kind is not TuningKind.FULL
    size = vlm.tower.transform.size
    output_layer: Any = decoder_and_output_layer(language_model)[1]
    return Footprint(
        tower=_count_parameters(vlm.tower),
        connector=_count_parameters(vlm.model.connector),
        language_model=_count_parameters(language_model),
        quantisable=sum(linear.weight.numel() for linear in linears),
        adapters=tuning.rank * sum(sizes) if has_adapters else 0,
        block=_count_parameters(blocks[0]),
        num_blocks=len(blocks),
        output_layer=output_layer.weight.numel(),
        has_tied_embeddings=output_layer.weight is language_model.get_input_embeddings().weight,
        hidden_size=config.hidden_size,
        inner_size=config.intermediate_size,
        cache_width=2 * config.num_key_value_heads * config.head_dim,
        vocab_size=config.vocab_size,
        num_features=num_features,
        num_image_tokens=vlm.num_image_tokens,
        connector_image_flops=_connector_flops(vlm.model.connector, num_features),
        connector_token_flops=token_flops,
        connector_token_values=token_values,
        image_flops=tower_flops(vlm.tower),
        image_bytes=4 * 3 * size * size,
    )


def _count_parameters(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _connector_flops(connector: Connector, num_features: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        connector(torch.empty(1, num_features, connector.vision_width))
    return float(counter.get_total_flops())


def _inside_costs(connector: Connector, num_features: int, width: int) -> tuple[float, float]:
    """Return FLOPs and kept numbers of one token that follows an image; 0 outside the decoder."""
    if not connector.works_inside:
        return 0.0, 0.0
    flops, values = [], []
    for num_tokens in (_PROBE_TOKENS, 2 * _PROBE_TOKENS):  # the difference is that of the tokens
        kept: dict[int, torch.Tensor] = {}
        parameters = {id(parameter) for parameter in connector.parameters()}

        def keep(tensor: torch.Tensor, kept: dict[int, torch.Tensor] = kept) -> torch.Tensor:
            whole = tensor if tensor._base is None else tensor._base
            kept[id(whole)] = whole
            return tensor

        with (
            FlopCounterMode(display=False) as counter,
            torch.device("meta"),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            features_NPE = torch.empty(1, num_features, connector.vision_width)
            connector.run_inside(torch.empty(1, num_tokens, width), features_NPE)
        flops.append(float(counter.get_total_flops()))
        values.append(sum(t.numel() for key, t in kept.items() if key not in parameters))
    return tuple((two - one) / _PROBE_TOKENS for one, two in (flops, values))  # type: ignore[return-value]


def tower_flops(tower: VisionTower) -> float:
    """Count the FLOPs of the forward pass for one image."""
    size = tower.transform.size
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        tower(torch.empty(1, 3, size, size))
    return float(counter.get_total_flops())
