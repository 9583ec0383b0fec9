"""Connectors, which map visual features to the language model's embedding space."""

import dataclasses
from enum import StrEnum

import torch
from torch import nn

from core.rng import torch_generator


class ConnectorKind(StrEnum):
    """Shape of the connector."""

    LINEAR = "linear"
    """One fully connected layer. PAPER section 2."""
    MLP2X_GELU = "mlp2x_gelu"
    """MLP of two layers with GELU (LLaVA-1.5)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """Configuration of the connector."""

    kind: ConnectorKind = ConnectorKind.LINEAR
    """Shape of the connector."""


class LinearConnector(nn.Module):
    """Affine map from features (N, P, E) to embeddings (N, P, D)."""

    def __init__(self, vision_width: int, model_width: int) -> None:
        super().__init__()
        self.vision_width = vision_width
        self.proj = nn.Linear(vision_width, model_width)

    def forward(self, features_NPE: torch.Tensor) -> torch.Tensor:
        """Project features."""
        projected_NPD: torch.Tensor = self.proj(features_NPE)
        return projected_NPD


class MlpConnector(nn.Module):
    """Two-layer MLP with GELU from features (N, P, E) to embeddings (N, P, D)."""

    def __init__(self, vision_width: int, model_width: int) -> None:
        super().__init__()
        self.vision_width = vision_width
        self.linear_1 = nn.Linear(vision_width, model_width)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(model_width, model_width)

    def forward(self, features_NPE: torch.Tensor) -> torch.Tensor:
        """Project features."""
        projected_NPD: torch.Tensor = self.linear_2(self.act(self.linear_1(features_NPE)))
        return projected_NPD


Connector = LinearConnector | MlpConnector


def build_connector(
    config: ConnectorConfig, *, vision_width: int, model_width: int, seed: int
) -> Connector:
    """Build a connector whose initial weights depend on the seed only.

    Weights are uniform in +-1/sqrt(inputs), as those of torch.nn.Linear; biases are zero.
    """
    is_linear = config.kind is ConnectorKind.LINEAR
    connector: Connector = (LinearConnector if is_linear else MlpConnector)(
        vision_width, model_width
    )
    for name, parameter in connector.named_parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
            continue
        bound = parameter.shape[1] ** -0.5
        generator = torch_generator(seed, "connector", name)
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return connector
