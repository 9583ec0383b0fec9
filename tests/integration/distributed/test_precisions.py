"""16-bit precisions end to end: one process through evaluation, two ranks with DDP and FSDP2."""

import math
import socket
from pathlib import Path

import pytest
import safetensors.torch
import torch

from core.config import dump_config, load_config
from core.precision import Precision
from models.language.float8 import has_torchao
from pipeline.launchers.environment import ClusterVariable
from pipeline.stages.registry import stage_class
from pipeline.store.store import StageFolder, Store
from tests.support import ranks
from tests.support import small_world as worlds
from tests.support.ranks import World

pytestmark = pytest.mark.slow
HALF = [Precision.BF16_MIXED, Precision.BF16_TRUE]
TOLERANCE = 0.05
needs_torchao = pytest.mark.skipif(
    not has_torchao(), reason="torchao is not installed: pip install '.[float8]'"
)


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


def set_precision(folder: StageFolder, precision: Precision, strategy: str) -> None:
    """Write precision and strategy into the spec of a prepared stage."""
    path = folder.path / "spec.yaml"
    overrides = [f"compute.strategy={strategy}", f"precision={precision}"]
    stage = load_config(stage_class(folder.path.parent.name), path, overrides=overrides)
    path.write_text(dump_config(stage))


def check_follows_float32(world: World, kind: str, folder: StageFolder, tolerance: float) -> None:
    """Compare the losses with those of one process in float32."""
    single = Store(Path("one")).folder(kind, world.node(kind).address)
    expected, found = worlds.series(single.path), worlds.series(folder.path)
    assert sorted(found) == sorted(expected)
    for step, loss in expected.items():
        assert math.isclose(found[step], loss, rel_tol=tolerance), (step, found[step], loss)
    saved = safetensors.torch.load_file(folder.result / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())


@pytest.mark.parametrize(
    "precision",
    [*HALF, pytest.param(Precision.FLOAT8_MIXED, marks=needs_torchao)],
)
@pytest.mark.parametrize(("kind", "strategy"), [("align", "ddp"), ("instruct", "fsdp2")])
def test_two_ranks_follow_float32(
    world: World, kind: str, strategy: str, precision: Precision
) -> None:
    """Rounding of 16-bit products changes the losses of a small model by percents."""
    folder = ranks.prepare(world, kind, root=f"{strategy}-{precision}", devices=2)
    set_precision(folder, precision, strategy)
    ranks.run_to_the_end(world, folder)
    check_follows_float32(world, kind, folder, TOLERANCE)


@pytest.mark.parametrize("precision", HALF)
def test_two_nodes_of_two_ranks_follow_float32(world: World, precision: Precision) -> None:
    """HSDP shards within each node; the nodes are processes of this machine."""
    folder = ranks.prepare(world, "instruct", root=f"hsdp-{precision}", devices=2, num_nodes=2)
    set_precision(folder, precision, "hsdp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {ClusterVariable.MASTER_ADDR: "127.0.0.1", ClusterVariable.MASTER_PORT: str(port)}
    nodes = [
        ranks.start(world, folder, place | {ClusterVariable.NODE_RANK: str(node)})
        for node in range(2)
    ]
    for node in nodes:
        code, output = worlds.finish(node)
        assert code == 0, output
        assert "/4\n" in output, "four ranks train together"
    assert folder.is_done()
    check_follows_float32(world, "instruct", folder, 0.005)
