"""Trains a small ViT tower that stock LLaVA supports, for exporting cells."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from configuration.trainer import TrainerConfig
from core.config import load_config
from core.errors import ConfigError
from core.io.sealed_folder import SEAL_FILE
from lightning_modules.distillation.recipe import DistillationRecipe
from pipeline.content import ContentHashes
from pipeline.graph import Graph, make_node
from pipeline.stages.distilled_tower import DistilledTowerStage
from pipeline.store.store import Store

_RECIPE = Path("configs/recipes/distilled_tower.yaml")
_TOWER_FOLDER = "tower_vit"
"""Folder of the finished tower below `models`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilledTowerConfig:
    """Configuration of the distilled tower."""

    teacher: str
    """Folder of the tower that is imitated."""
    captions: list[str]
    """Manifests of drawings and their base-language names."""
    drawings: list[str]
    """Manifests of further drawings, of which only the images are used."""
    models: str
    """Folder to which the finished tower is copied."""
    seed: int = 0
    """Seed of all random draws."""
    recipe: DistillationRecipe = dataclasses.field(default_factory=DistillationRecipe)
    """Student, views and training."""
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """Execution settings."""


def load(overrides: Sequence[str]) -> DistilledTowerConfig:
    """Load the recipe with overrides.

    Raises:
        ConfigError: If the drawings do not exist.
    """
    config = load_config(DistilledTowerConfig, _RECIPE, overrides=overrides)
    for path in config.drawings:
        if not Path(path).is_file():
            raise ConfigError(
                f"no drawings at '{path}'; build them first: python -m data_prep.tower_drawings "
                f"--out {Path(path).parent}"
            )
    return config


def build_graph(config: DistilledTowerConfig) -> Graph:
    """Build the graph of one stage run."""
    stage = DistilledTowerStage(
        teacher=config.teacher,
        captions=tuple(config.captions),
        drawings=tuple(config.drawings),
        recipe=config.recipe,
        seed=config.seed,
    )
    node = make_node(stage, ContentHashes(), params={"seed": config.seed})
    return Graph(nodes={node.address: node}, cells={})


def publish(config: DistilledTowerConfig, graph: Graph, store: Store) -> Path:
    """Copy the finished tower to the folder that a profile can name."""
    target = Path(config.models) / _TOWER_FOLDER
    for node in graph.nodes.values():
        source = store.folder(node.kind, node.address)
        if source.is_done():
            target.mkdir(parents=True, exist_ok=True)
            for file in source.result.iterdir():
                if file.name != SEAL_FILE:
                    shutil.copyfile(file, target / file.name)
    return target
