"""Architecture `linear`: one fully connected layer (PAPER section 2)."""

import torch
from torch import nn

from models.connector import Connector, ConnectorSizes, register_connector


@register_connector("linear")
class LinearConnector(Connector):
    """Affine map from features (N, P, E) to embeddings (N, P, D)."""

    def __init__(self, sizes: ConnectorSizes) -> None:
        super().__init__(sizes)
        self.proj = nn.Linear(sizes.vision_width, sizes.model_width)

    def forward(self, features_NPE: torch.Tensor) -> torch.Tensor:
        """Project features."""
        projected_NPD: torch.Tensor = self.proj(features_NPE)
        return projected_NPD
