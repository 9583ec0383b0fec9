"""The model of a cell: a composed one (tower, connector, language model) or a ready-made one."""

import dataclasses
from enum import StrEnum

from core.chat.ready_made import OWN_TEMPLATE
from core.chat.templates import TEMPLATES
from core.errors import ConfigError, unknown_name
from models.connector import ConnectorConfig, get_connector_class
from models.towers.vision_tower import VisionTowerConfig


class ModelFamily(StrEnum):
    """Origin of the models of a grid."""

    COMPOSED = "composed"
    """A vision tower, a connector and a language model under `backbones`."""
    HF = "hf"
    """A vision-language model of transformers under `backbones`, used as it is; stage 1, which
    trains a fresh connector, does not exist."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadyMadeConfig:
    """Settings of ready-made models."""

    min_pixels: int | None = None
    """Smallest number of pixels to which an image is resized, for classes with dynamic resolution;
    null keeps the value of the model's image processor."""
    max_pixels: int | None = None
    """Largest number of pixels to which an image is resized. It bounds the visual tokens of an
    image and hence the memory of a step."""

    def __post_init__(self) -> None:
        """Validate the limits."""
        for name in ("min_pixels", "max_pixels"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ConfigError(f"model.ready_made.{name} must be at least 1, got {number}")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ConfigError(
                f"model.ready_made.min_pixels={self.min_pixels} exceeds max_pixels="
                f"{self.max_pixels}; exchange them"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The family of the model and, for composed models, its vision side."""

    family: ModelFamily = ModelFamily.COMPOSED
    """Where the models under `backbones` come from."""
    tower: VisionTowerConfig = dataclasses.field(default_factory=VisionTowerConfig)
    """Composed models: the frozen vision tower."""
    connector: ConnectorConfig = dataclasses.field(default_factory=ConnectorConfig)
    """Composed models: how the features of the tower reach the language model."""
    cache_features: bool = True
    """Composed models: compute the features of the frozen tower once per image and cache them
    on disk. Worthwhile if every image is seen several times; otherwise the tower runs in every
    step. The architecture single_stream has nothing to cache."""
    ready_made: ReadyMadeConfig = dataclasses.field(default_factory=ReadyMadeConfig)
    """Ready-made models: limits of their images."""

    @property
    def is_ready_made(self) -> bool:
        """True if the models are ready-made."""
        return self.family is ModelFamily.HF

    @property
    def vision(self) -> VisionTowerConfig:
        """The tower that the architecture of a composed model uses."""
        connector = get_connector_class(self.connector.kind)
        return connector.choose_tower(self.tower, self.connector.own_options)

    @property
    def has_feature_cache(self) -> bool:
        """True if features are computed once per image."""
        if self.is_ready_made:
            return False
        return self.cache_features and get_connector_class(self.connector.kind).caches_features


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A language model, or a ready-made vision-language model, and its chat template."""

    path: str
    """Local folder or hub name."""
    revision: str = ""
    """Hub revision; empty for a local folder."""
    template: str = "embedded"
    """Name of a template in core.chat.templates, or `own` for that of a ready-made model."""

    def __post_init__(self) -> None:
        """Validate the name of the template."""
        known = [*TEMPLATES, OWN_TEMPLATE]
        if self.template not in known:
            raise ConfigError(unknown_name("chat template", self.template, known))
