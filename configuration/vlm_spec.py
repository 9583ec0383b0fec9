"""The model that a stage builds, as part of the stage's address."""

import dataclasses
from typing import Self

from configuration.run_config import RunConfig
from core.chat.templates import TEMPLATES
from core.config import to_plain
from models.connector import ConnectorConfig
from models.language.language_model import LanguageModelConfig
from models.towers.vision_tower import VisionTowerConfig


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
            tower=config.model.tower,
            connector=config.model.connector,
            language_model=LanguageModelConfig(path=backbone.path, revision=backbone.revision),
            template=backbone.template,
        )

    @property
    def definitions(self) -> dict[str, object]:
        """Content of the chat template under its name."""
        return {f"chat template {self.template}": to_plain(TEMPLATES[self.template])}

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Local folders or hub names of the pretrained parts."""
        return (self.tower.path, self.language_model.path)
