"""Architecture `resampler`: learned queries that gather the features of an image.

This is the Perceiver resampler of Flamingo (arXiv 2204.14198, section 2.2) in the form of
transformers' Idefics, followed by a linear map to the width of the language model. The number of
visual tokens is that of the queries, whatever the tower gives.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from core.errors import ConfigError
from models.connector import Connector, ConnectorSizes, register_connector

_INNER_FACTOR = 4
"""Inner width of the feed-forward layers, relative to the width of the features."""


@register_connector("resampler")
class ResamplerConnector(Connector):
    """Perceiver from features (N, P, E) to embeddings (N, Q, D) of a fixed number of queries."""

    default_options: ClassVar[Mapping[str, int]] = {
        "num_queries": 64,
        "num_layers": 2,
        "num_heads": 8,
    }
    relative_lr = 0.1

    def __init__(self, sizes: ConnectorSizes) -> None:
        super().__init__(sizes)
        width, options = sizes.vision_width, sizes.options
        if width % options["num_heads"]:
            raise ConfigError(
                f"model.connector.options.resampler.num_heads={options['num_heads']} does not "
                f"divide the width of the tower's features, {width}; choose a divisor"
            )
        self.queries_QE = nn.Parameter(torch.empty(options["num_queries"], width))
        self.layers = nn.ModuleList(
            _ResamplerLayer(width, options["num_heads"]) for _ in range(options["num_layers"])
        )
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, sizes.model_width)

    @classmethod
    def count_image_tokens(cls, num_features: int, options: Mapping[str, int]) -> int:
        """Return the number of queries."""
        del num_features
        return options["num_queries"]

    def forward(self, features_NPE: torch.Tensor) -> torch.Tensor:
        """Gather and project features."""
        gathered_NQE = self.queries_QE.expand(features_NPE.shape[0], -1, -1)
        for layer in self.layers:
            gathered_NQE = layer(gathered_NQE, features_NPE)
        projected_NQD: torch.Tensor = self.proj(self.norm(gathered_NQE))
        return projected_NQD


class _ResamplerLayer(nn.Module):
    """Attention of the queries to features and queries, and a feed-forward layer; both residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.features_norm = nn.LayerNorm(width)
        self.queries_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.up_proj = nn.Linear(width, _INNER_FACTOR * width, bias=False)
        self.down_proj = nn.Linear(_INNER_FACTOR * width, width, bias=False)

    def forward(self, queries_NQE: torch.Tensor, features_NPE: torch.Tensor) -> torch.Tensor:
        """Return the updated queries."""
        normed_NQE = self.queries_norm(queries_NQE)
        seen_NSE = torch.cat([self.features_norm(features_NPE), normed_NQE], dim=1)
        attended_NHQC = functional.scaled_dot_product_attention(
            self._heads(self.q_proj(normed_NQE)),
            self._heads(self.k_proj(seen_NSE)),
            self._heads(self.v_proj(seen_NSE)),
        )
        queries_NQE = queries_NQE + self.o_proj(attended_NHQC.transpose(1, 2).flatten(2))
        inner_NQF = functional.relu(self.up_proj(self.mlp_norm(queries_NQE)))
        updated_NQE: torch.Tensor = queries_NQE + self.down_proj(inner_NQF)
        return updated_NQE

    def _heads(self, states_NSE: torch.Tensor) -> torch.Tensor:
        num_images, num_states, width = states_NSE.shape
        shape = (num_images, num_states, self._num_heads, width // self._num_heads)
        return states_NSE.view(shape).transpose(1, 2)
