"""The model that a stage builds, as part of the stage's address."""

import dataclasses
from functools import cache
from typing import Self

from configuration.run_config import RunConfig
from core.chat.ready_made import OWN_TEMPLATE
from core.chat.templates import TEMPLATES
from core.config import ABSENT_IF_NONE, to_plain
from models.connector import ConnectorConfig, count_placeholders
from models.language.language_model import LanguageModelConfig
from models.ready_made.loading import ReadyMadeSource
from models.towers.vision_tower import VisionTowerConfig, count_image_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class VlmSpec:
    """The parts of a composed vision-language model, or a ready-made one."""

    tower: VisionTowerConfig
    connector: ConnectorConfig
    language_model: LanguageModelConfig
    template: str
    """Name of the chat template."""
    ready_made: ReadyMadeSource | None = dataclasses.field(default=None, metadata=ABSENT_IF_NONE)
    """The whole model if it is a ready-made one. Tower and connector are then the defaults, which
    nothing reads, and the language model has its place."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Return the model of a cell."""
        backbone = config.backbone
        language_model = LanguageModelConfig(path=backbone.path, revision=backbone.revision)
        if not config.model.is_ready_made:
            return cls(
                tower=config.model.vision,
                connector=config.model.connector.resolved(),
                language_model=language_model,
                template=backbone.template,
            )
        settings = config.model.ready_made
        return cls(
            tower=VisionTowerConfig(),
            connector=ConnectorConfig(),
            language_model=language_model,
            template=OWN_TEMPLATE,
            ready_made=ReadyMadeSource(
                path=backbone.path,
                revision=backbone.revision,
                min_pixels=settings.min_pixels,
                max_pixels=settings.max_pixels,
            ),
        )

    @property
    def definitions(self) -> dict[str, object]:
        """Content of the chat template under its name; that of a ready-made model is a file."""
        if self.ready_made is not None:
            return {}
        return {f"chat template {self.template}": to_plain(TEMPLATES[self.template])}

    @property
    def num_image_tokens(self) -> int:
        """Number of placeholders of an image in the text of a composed model."""
        return count_placeholders(self.connector, _count_features(self.tower))

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Local folders or hub names of the pretrained parts."""
        if self.ready_made is not None:
            return (self.ready_made.path,)
        return (self.tower.path, self.language_model.path)

    @property
    def encoding(self) -> object:
        """Everything on which token ids depend, as a key."""
        if self.ready_made is not None:
            return self.ready_made
        return (self.language_model, self.template, self.num_image_tokens)


@cache
def _count_features(tower: VisionTowerConfig) -> int:
    return count_image_tokens(tower)
