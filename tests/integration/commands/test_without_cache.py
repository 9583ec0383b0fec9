"""The same study without a feature cache, with the tower in every step."""

from pathlib import Path

import pytest

from pipeline.store.notes import read_json
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow


def test_cached_features_and_the_tower_itself_train_alike(tmp_path: Path) -> None:
    world = worlds.build_world(tmp_path / "world")
    short = ("align.num_steps=8", "instruct.num_steps=8")
    roots = {"cached": "true", "tower": "false"}
    for root, cache in roots.items():
        settings = (*short, f"model.cache_features={cache}")
        code, output = worlds.run(world, worlds.grid_arguments(root, "--set", *settings))
        assert code == 0, output
    assert not (world / "tower" / "store" / "features").exists()
    for kind in ("align", "instruct"):
        cached, tower = (worlds.series(worlds.stage_folder(world / root, kind)) for root in roots)
        assert cached.keys() == tower.keys()
        assert tower == pytest.approx(cached, rel=1e-4)
    cached, tower = (
        read_json(worlds.stage_folder(world / root, "evaluate") / "result" / "metrics.json")
        for root in roots
    )
    assert cached["metrics"].keys() == tower["metrics"].keys()
