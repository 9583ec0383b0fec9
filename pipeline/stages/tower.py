"""Stage kind `tower`: the contrastively trained vision tower of the embedded profile."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from datamodules.shards.source import Source
from lightning_modules.contrastive.module import TowerRecipe
from lightning_modules.contrastive.training import TowerImage, train_tower
from pipeline.stages.base import Stage, StageContext

_SCENE = "scene-"
"""Part of the keys of composed images; the recipe of the tower composes its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerStage(Stage):
    """The head of a vision tower, trained on single images and their names."""

    kind: ClassVar[str] = "tower"
    uses_all_cores: ClassVar[bool] = True

    captions: tuple[str, ...]
    """Manifests of caption sources in the base language: images and names."""
    recipe: TowerRecipe
    seed: int

    @property
    def manifests(self) -> tuple[str, ...]:
        """Manifests of the caption sources."""
        return self.captions

    def run(self, context: StageContext) -> None:
        """Train the head and save the tower."""
        sources = [Source(Path(path)) for path in self.captions]
        samples = (source.read(i) for source in sources for i in range(len(source)))
        images = [
            TowerImage(name=sample.turns[-1].content, image=sample.image)
            for sample in samples
            if sample.image is not None and not is_composed(sample.key)
        ]
        train_tower(images, self.recipe, seed=self.seed, out_dir=context.folder.scratch)


def is_composed(key: str) -> bool:
    """Return whether a sample of the embedded captions is a scene of several drawings."""
    return _SCENE in key
