"""A distillation that was stopped continues with the same result."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from configuration.trainer import TrainerConfig
from core.errors import PreemptedError
from core.process.stop import StopFlag
from lightning_modules.distillation.module import DistillationModule
from lightning_modules.distillation.recipe import (
    DistillationRecipe,
    DrawingViewsConfig,
    StudentShape,
)
from models.towers.vision_tower import VisionTowerConfig, load_vision_tower
from pipeline.stages.base import StageContext
from pipeline.stages.distilled_tower import DistilledTowerStage
from pipeline.store.store import StageFolder
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow

RECIPE = DistillationRecipe(
    shape=StudentShape(
        image_size=32, patch_size=16, width=16, num_layers=1, num_heads=1, mlp_width=16
    ),
    views=DrawingViewsConfig(num_chunks=2, chunk_views=4),
    num_steps=6,
    batch_size=2,
)


def test_a_stopped_distillation_continues_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds.build_world(tmp_path / "world")
    stage = DistilledTowerStage(
        teacher=str(worlds.REPOSITORY / "data/embedded/models/tower"),
        captions=(str(world / "data/caption_en.manifest.json"),),
        drawings=(str(world / "data/benchmark_test.manifest.json"),),
        recipe=RECIPE,
        seed=0,
    )
    flag, steps = StopFlag(), list[str]()
    train = DistillationModule.training_step

    def watched(self: DistillationModule, batch: Any, batch_idx: int) -> Any:
        steps.append(name)
        flag.is_set = name == "stopped" and len(steps) % 2 == 0
        return train(self, batch, batch_idx)

    monkeypatch.setattr(DistillationModule, "training_step", watched)
    files, losses = {}, {}
    for name in ("calm", "stopped"):
        steps.clear()
        folder = StageFolder(tmp_path / name)
        folder.scratch.mkdir(parents=True)
        context = StageContext(
            folder=folder, inputs={}, cache=tmp_path / "cache", flag=flag,
            trainer=TrainerConfig(checkpoint_every_n_steps=4, log_every_n_steps=1),
            on_hung=lambda _: None,
        )  # fmt: skip
        num_attempts = 0
        while True:
            num_attempts += 1
            flag.is_set = False
            with contextlib.suppress(PreemptedError):
                stage.run(context)
                break
        assert num_attempts == (1 if name == "calm" else 3)
        assert len(steps) == RECIPE.num_steps
        losses[name] = worlds.series(folder.path, "loss")
        files[name] = {path.name: path.read_bytes() for path in folder.scratch.iterdir()}
    assert files["stopped"] == files["calm"]
    assert sorted(losses["calm"]) == list(range(RECIPE.num_steps))
    assert losses["stopped"].items() <= losses["calm"].items()
    config = VisionTowerConfig(library="transformers", path=str(folder.scratch))
    tower = load_vision_tower(config)
    pixels = tower.transform(worlds.image(0))[None]
    assert 0.2 < tower(pixels).square().mean() < 5.0
