"""Architecture `cross_attention`: gated cross-attention adapters between frozen decoder blocks.

Before every n-th decoder block, a layer lets the tokens that follow an image attend to its features
(Flamingo, arXiv 2204.14198, section 2.3). The layer is that of Llama 3.2 Vision
(`MllamaCrossAttentionDecoderLayer` of transformers). Its gates start at zero, so that training
begins with the language model itself. A token that sees no image passes unchanged: without images,
the model is the language model. An image takes one position of the text, whose embedding stays.

Shape legend: core/samples.py; L tokens that follow an image, H heads, G heads of keys and values,
C their width.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from core.errors import ConfigError, DataError
from models.connector import Connector, ConnectorSizes, register_connector
from models.image_layout import ImageLayout
from models.language.blocks import decoder_blocks

_ARGUMENT = "seen_images"
"""Argument of the decoder, which it passes on to its blocks."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeenImages:
    """Images of a batch, and which tokens see them."""

    keys_values: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """Keys and values (N, G, P, C) of every layer."""
    layout: ImageLayout


@register_connector("cross_attention")
class CrossAttentionConnector(Connector):
    """Gated cross-attention layers before every n-th decoder block."""

    default_options: ClassVar[Mapping[str, int]] = {"every_n_blocks": 4}
    works_inside = True
    trains_language_model = False
    can_compile = False
    relative_lr = 0.1  # Flamingo: 1e-4; the projector of LLaVA: 1e-3

    def __init__(self, sizes: ConnectorSizes) -> None:
        super().__init__(sizes)
        if sizes.language_model is None:
            raise ValueError("cross-attention needs the configuration of the language model")
        config, every = sizes.language_model, sizes.options["every_n_blocks"]
        num_layers = config.num_hidden_layers // every
        if not num_layers:
            raise ConfigError(
                f"model.connector.options.cross_attention.every_n_blocks={every}, but the language "
                f"model has {config.num_hidden_layers} blocks; use a smaller number"
            )
        self._every = every
        self.proj = nn.Linear(sizes.vision_width, sizes.model_width)
        self.images = nn.ModuleList(_ImageKeys(config) for _ in range(num_layers))
        self.layers = nn.ModuleList(CrossAttentionLayer(config) for _ in range(num_layers))

    @classmethod
    def count_image_tokens(cls, num_features: int, options: Mapping[str, int]) -> int:
        """Return 1: the place of the image in the text."""
        del num_features, options
        return 1

    def forward(self, features_NPE: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Return keys and values (N, G, P, C) of every layer."""
        projected_NPD = self.proj(features_NPE)
        return tuple(keys(projected_NPD) for keys in self.images)

    def embed_images(
        self,
        embeds_BTD: torch.Tensor,
        features_NPE: torch.Tensor,
        image_positions_M: torch.Tensor,
    ) -> torch.Tensor:
        """Return the embeddings unchanged.

        Raises:
            DataError: If the numbers of placeholders and images differ.
        """
        num_images, num_placeholders = features_NPE.shape[0], image_positions_M.numel()
        if num_images != num_placeholders:
            raise DataError(
                f"{num_placeholders} placeholders in the tokens, {num_images} images; the batch is "
                "misaligned"
            )
        return embeds_BTD

    def idle(self) -> torch.Tensor:
        """Return a zero (scalar) whose graph contains every parameter."""
        weight = self.proj.weight
        features_NPE = weight.new_zeros(1, 1, self.vision_width)
        hidden_NLD = weight.new_zeros(1, 1, self.proj.out_features)
        return 0.0 * self.run_inside(hidden_NLD, features_NPE).sum()

    def attach(self, language_model: nn.Module) -> None:
        """Run a layer before every n-th block of a language model."""
        # A block receives the argument whether or not a layer precedes it, and must not see it.
        for number, block in enumerate(decoder_blocks(language_model)):
            index, rest = divmod(number + 1, self._every)
            hook = partial(_run_layer, self if rest == 0 else None, index - 1)
            block.register_forward_pre_hook(hook, with_kwargs=True)

    def decoder_arguments(self, features_NPE: torch.Tensor, layout: ImageLayout) -> dict[str, Any]:
        """Return the images, which the hooks of `attach` take."""
        return {_ARGUMENT: SeenImages(keys_values=self(self.cast(features_NPE)), layout=layout)}

    def sharding_groups(self) -> list[nn.Module]:
        """Return the layers."""
        return list(self.layers)

    def run_inside(self, hidden_NLD: torch.Tensor, features_NPE: torch.Tensor) -> torch.Tensor:
        """Run all layers one after the other."""
        for layer, (keys, values) in zip(self.layers, self(features_NPE), strict=True):
            hidden_NLD = layer(hidden_NLD, keys, values)
        return hidden_NLD

    @classmethod
    def block_period(cls, options: Mapping[str, int]) -> int:
        """Return the distance of two layers, in blocks."""
        return options["every_n_blocks"]


class _ImageKeys(nn.Module):
    """Keys and values of one layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self._num_heads, self._width = config.num_key_value_heads, config.head_dim
        inner = self._num_heads * self._width
        self.k_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_norm = nn.RMSNorm(self._width, eps=config.rms_norm_eps)

    def forward(self, projected_NPD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (N, G, P, C) of projected features."""
        shape = (self._num_heads, self._width)
        keys_NPGC = self.k_norm(self.k_proj(projected_NPD).unflatten(-1, shape))
        values_NPGC = self.v_proj(projected_NPD).unflatten(-1, shape)
        return keys_NPGC.transpose(1, 2), values_NPGC.transpose(1, 2)


class CrossAttentionLayer(nn.Module):
    """Gated attention to the features of an image and a gated feed-forward layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self._num_heads = config.num_attention_heads
        width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
        self.input_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.o_proj = nn.Linear(inner, width, bias=False)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.mlp_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.gate_proj = nn.Linear(width, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(width, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, width, bias=False)
        self.mlp_gate = nn.Parameter(torch.zeros(1))

    def forward(
        self, hidden_NLD: torch.Tensor, keys_NGPC: torch.Tensor, values_NGPC: torch.Tensor
    ) -> torch.Tensor:
        """Return the hidden states of tokens that see the image of their row."""
        query_NLHC = self.q_proj(self.input_norm(hidden_NLD)).unflatten(-1, (self._num_heads, -1))
        query_NHLC = self.q_norm(query_NLHC).transpose(1, 2)
        dtype = values_NGPC.dtype  # autocast leaves norms in float32
        attended_NHLC = functional.scaled_dot_product_attention(
            query_NHLC.to(dtype), keys_NGPC.to(dtype), values_NGPC, enable_gqa=True
        )
        attended_NLD = self.o_proj(attended_NHLC.transpose(1, 2).flatten(2))
        hidden_NLD = hidden_NLD + self.attention_gate.tanh() * attended_NLD
        normed_NLD = self.mlp_norm(hidden_NLD)
        inner_NLF = functional.silu(self.gate_proj(normed_NLD)) * self.up_proj(normed_NLD)
        updated_NLD: torch.Tensor = hidden_NLD + self.mlp_gate.tanh() * self.down_proj(inner_NLF)
        return updated_NLD


def _run_layer(
    connector: CrossAttentionConnector | None,
    index: int,
    _block: nn.Module,
    args: tuple[torch.Tensor, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Update the input (B, T, D) of a block; without images it stays as it is."""
    seen: SeenImages | None = kwargs.pop(_ARGUMENT, None)
    if seen is None or connector is None:
        return args, kwargs
    hidden_BTD, *others = args
    layout = seen.layout
    flat_XD = hidden_BTD.flatten(0, 1)
    keys, values = seen.keys_values[index]
    updated_NLD = connector.layers[index](flat_XD[layout.tokens_NL], keys, values)
    updated_BTD = updated_NLD.flatten(0, 1)[layout.slots_BT].to(hidden_BTD.dtype)
    hidden_BTD = torch.where(layout.sees_BT[..., None], updated_BTD, hidden_BTD)
    return (hidden_BTD, *others), kwargs
