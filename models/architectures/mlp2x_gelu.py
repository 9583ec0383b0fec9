"""Architecture `mlp2x_gelu`: the MLP of LLaVA-1.5 (arXiv 2310.03744)."""

import torch
from torch import nn

from models.connector import Connector, ConnectorSizes, register_connector


@register_connector("mlp2x_gelu")
class MlpConnector(Connector):
    """Two-layer MLP with GELU from features (N, P, E) to embeddings (N, P, D)."""

    def __init__(self, sizes: ConnectorSizes) -> None:
        super().__init__(sizes)
        self.linear_1 = nn.Linear(sizes.vision_width, sizes.model_width)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(sizes.model_width, sizes.model_width)

    def forward(self, features_NPE: torch.Tensor) -> torch.Tensor:
        """Project features."""
        projected_NPD: torch.Tensor = self.linear_2(self.act(self.linear_1(features_NPE)))
        return projected_NPD
