"""The model that a stage builds, as part of the stage's address."""

import dataclasses
from functools import cache
from typing import Self

from configuration.run_config import RunConfig
from core.chat.templates import TEMPLATES
from core.config import to_plain
from models.connector import ConnectorConfig, count_placeholders
from models.language.language_model import LanguageModelConfig
from models.towers.vision_tower import VisionTowerConfig, count_image_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class VlmSpec:
    """The parts of a vision-language model."""

    tower: VisionTowerConfig
    connector: ConnectorConfig
    language_model: LanguageModelConfig
    template: str
    """Name of the chat template."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Return the model of a cell."""
        backbone = config.backbone
        return cls(
            tower=config.model.vision,
            connector=config.model.connector.resolved(),
            language_model=LanguageModelConfig(path=backbone.path, revision=backbone.revision),
            template=backbone.template,
        )

    @property
    def definitions(self) -> dict[str, object]:
        """Content of the chat template under its name."""
        return {f"chat template {self.template}": to_plain(TEMPLATES[self.template])}

    @property
    def num_image_tokens(self) -> int:
        """Number of placeholders of an image in the text."""
        return count_placeholders(self.connector, _count_features(self.tower))

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Local folders or hub names of the pretrained parts."""
        return (self.tower.path, self.language_model.path)


@cache
def _count_features(tower: VisionTowerConfig) -> int:
    return count_image_tokens(tower)
