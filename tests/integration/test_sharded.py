"""FSDP2 over one, two and three processes trains what one plain process trains, in both stages."""

import signal
from pathlib import Path

import pytest

from callbacks.checkpoints import latest_checkpoint
from core.stop import EXIT_PREEMPTED
from experiments.store import StageFolder
from tests.integration import small_world as worlds
from tests.integration.test_two_ranks import World, check_same, prepare, train, world  # noqa: F401

pytestmark = pytest.mark.slow


def shard_it(folder: StageFolder, **levers: object) -> StageFolder:
    """Write FSDP2 (and other levers) into the spec of a stage that is ready to run."""
    from core.config import dump_config, load_config
    from experiments.specs import TrainSpec

    path = folder.path / "spec.yaml"
    settings = {"strategy": "fsdp2", **levers}
    overrides = [f"compute.{name}={value}" for name, value in settings.items()]
    path.write_text(dump_config(load_config(TrainSpec, path, overrides=overrides)))
    return folder


def run_sharded(folder: StageFolder, world: World) -> None:  # noqa: F811
    process = worlds.start(world.folder, str(folder.path), module="experiments.worker")
    code, output = worlds.finish(process)
    assert code == 0, output
    assert folder.is_done()


@pytest.mark.parametrize(
    ("kind", "devices", "levers"),
    [
        ("align", 2, {}),
        ("instruct", 1, {}),
        ("instruct", 2, {"checkpoint_blocks": 1, "loss_chunk": 8}),
        ("instruct", 3, {}),
    ],
)
def test_sharded_ranks_train_like_one(
    world: World,  # noqa: F811
    kind: str,
    devices: int,
    levers: dict[str, object],
) -> None:
    root = f"sharded-{kind}-{devices}"
    folder = shard_it(prepare(world, kind, root=root, devices=devices), **levers)
    run_sharded(folder, world)
    check_same(world, kind, folder)


def test_two_ranks_then_one_then_two_are_one_run(world: World) -> None:  # noqa: F811
    """The same global batches, and losses and weights equal to rounding."""
    reached = 0
    for devices in (2, 1):
        folder = shard_it(prepare(world, "instruct", root="resharded", devices=devices))
        process = worlds.start(world.folder, str(folder.path), module="experiments.worker")
        is_alive = lambda: process.poll() is None  # noqa: E731, B023 - waited for in this round
        worlds.wait_for_step(folder.path, reached + 3, is_alive=is_alive, since=0.0)
        process.send_signal(signal.SIGTERM)
        code, output = worlds.finish(process)
        assert code == EXIT_PREEMPTED, output
        saved = latest_checkpoint(folder.checkpoints)
        assert saved is not None
        reached = saved.step
        assert reached == max(worlds.series(folder.path)) + 1
        assert len(list(Path(saved.path).glob("__*.distcp"))) == devices
    folder = shard_it(prepare(world, "instruct", root="resharded", devices=2))
    run_sharded(folder, world)
    check_same(world, "instruct", folder)
    assert folder.read_status().attempts == len((2, 1, 2))
