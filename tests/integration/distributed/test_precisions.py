"""16-bit precisions end to end: one process through evaluation, two ranks with DDP and FSDP2."""

import math
from pathlib import Path

import pytest
import safetensors.torch
import torch

from core.config import dump_config, load_config
from core.precision import Precision
from pipeline.stages.registry import stage_class
from pipeline.store.store import Store
from tests.support import ranks
from tests.support import small_world as worlds
from tests.support.ranks import World

pytestmark = pytest.mark.slow
HALF = [Precision.BF16_MIXED, Precision.BF16_TRUE]


@pytest.mark.parametrize("precision", HALF)
def test_one_process_runs_every_stage(world: World, precision: Precision) -> None:
    root = f"precision-{precision}"
    arguments = worlds.grid_arguments(
        root, "--set", f"trainer.precision={precision}", "align.num_steps=4", "instruct.num_steps=4"
    )
    code, output = worlds.run(world.folder, arguments)
    assert code == 0, output
    for kind in ("align", "instruct"):
        losses = worlds.series(worlds.stage_folder(Path(root), kind))
        assert sorted(losses) == list(range(4))
        assert all(math.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize(("kind", "strategy"), [("align", "ddp"), ("instruct", "fsdp2")])
def test_two_ranks_follow_float32(
    world: World, kind: str, strategy: str, precision: Precision
) -> None:
    """Rounding of 16-bit products changes the losses of a small model by percents."""
    folder = ranks.prepare(world, kind, root=f"{strategy}-{precision}", devices=2)
    path = folder.path / "spec.yaml"
    overrides = [f"compute.strategy={strategy}", f"precision={precision}"]
    path.write_text(dump_config(load_config(stage_class(kind), path, overrides=overrides)))
    ranks.run_to_the_end(world, folder)
    single = Store(Path("one")).folder(kind, world.node(kind).address)
    expected, found = worlds.series(single.path), worlds.series(folder.path)
    assert sorted(found) == sorted(expected)
    for step, loss in expected.items():
        assert math.isclose(found[step], loss, rel_tol=0.05), (step, found[step], loss)
    saved = safetensors.torch.load_file(folder.result / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())
