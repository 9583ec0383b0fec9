"""FSDP2 on one, two and three processes trains like one plain process, in both stages."""

import random
import signal
import time
from pathlib import Path

import pytest

from callbacks.checkpoints import latest_checkpoint
from core.config import dump_config, load_config
from core.process.stop import EXIT_PREEMPTED
from pipeline.stages.registry import stage_class
from pipeline.store.store import StageFolder
from tests.support import small_world as worlds
from tests.support.ranks import World, check_same, prepare, run_to_the_end, start

pytestmark = pytest.mark.slow
NUM_KILLS = 5


def shard_it(folder: StageFolder, **levers: object) -> StageFolder:
    """Write FSDP2 and other settings into the spec of a prepared stage."""
    path = folder.path / "spec.yaml"
    settings = {"strategy": "fsdp2", **levers}
    overrides = [f"compute.{name}={value}" for name, value in settings.items()]
    path.write_text(
        dump_config(load_config(stage_class(folder.path.parent.name), path, overrides=overrides))
    )
    return folder


@pytest.mark.parametrize(
    ("kind", "devices", "levers"),
    [
        ("align", 2, {}),
        ("instruct", 1, {}),
        ("instruct", 2, {"checkpoint_blocks": 1, "loss_chunk": 8}),
        ("instruct", 3, {"reduce_once": "true"}),
    ],
)
def test_sharded_ranks_train_like_one(
    world: World, kind: str, devices: int, levers: dict[str, object]
) -> None:
    root = f"sharded-{kind}-{devices}"
    folder = shard_it(prepare(world, kind, root=root, devices=devices), **levers)
    run_to_the_end(world, folder)
    check_same(world, kind, folder)


def test_a_run_resumes_with_another_number_of_ranks(world: World) -> None:
    """The global batches are the same; losses and weights agree up to rounding."""
    reached = 0
    for devices in (2, 1):
        folder = shard_it(prepare(world, "instruct", root="resharded", devices=devices))
        process = start(world, folder)
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
    run_to_the_end(world, folder)
    check_same(world, "instruct", folder)
    assert folder.read_status().attempts == len((2, 1, 2))


def _damage(path: Path, kind: int) -> None:
    content = path.read_bytes()
    if kind == 0:
        path.write_bytes(content[: len(content) // 2])
    elif kind == 1:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    else:
        path.unlink()


def test_a_damaged_file_of_any_rank_costs_one_interval(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shard_it(prepare(world, "instruct", root="damaged", devices=2))
    process = start(world, folder)
    is_alive = lambda: process.poll() is None  # noqa: E731
    worlds.wait_for_step(folder.path, 11, is_alive=is_alive, since=0.0)
    process.send_signal(signal.SIGTERM)
    assert worlds.finish(process)[0] == EXIT_PREEMPTED
    before, newest = sorted(folder.checkpoints.glob("step=*"))
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    assert len([path for path in files if path.suffix == ".distcp"]) == 2
    assert len(files) == 5, "the list, one per rank, the rest of the state, the seal"
    for path in files:
        for kind in range(3):
            copy = path.read_bytes()
            _damage(path, kind)
            caplog.clear()
            saved = latest_checkpoint(folder.checkpoints)
            assert saved is not None
            assert saved.path.parent == before, (path, kind)
            assert f"{newest.name} is damaged ({path.relative_to(newest)}" in caplog.text
            path.write_bytes(copy)
    assert latest_checkpoint(folder.checkpoints).path.parent == newest  # type: ignore[union-attr]
    _damage(newest / "checkpoint.ckpt" / "__1_0.distcp", 1)
    folder = shard_it(prepare(world, "instruct", root="damaged", devices=2))
    process = start(world, folder)
    code, output = worlds.finish(process)
    assert code == 0, output
    assert "is damaged (checkpoint.ckpt/__1_0.distcp: checksum differs)" in output
    check_same(world, "instruct", folder)


def test_killed_at_random_moments_two_ranks_lose_no_complete_checkpoint(
    world: World,
) -> None:
    """With a checkpoint after every step, most of the time is spent saving."""
    rng, kept, num_kills = random.Random(11), 0, 0
    while True:
        folder = shard_it(
            prepare(world, "instruct", root="killed", devices=2, checkpoint_every_n_steps=1)
        )
        process = start(world, folder)
        begin = time.time()
        try:
            is_alive = lambda: process.poll() is None  # noqa: E731, B023 - in this round
            worlds.wait_for_step(folder.path, kept, is_alive=is_alive, since=begin)
        except TimeoutError:
            break  # the run completed
        if num_kills == NUM_KILLS:
            break
        time.sleep(rng.random() * 0.15)
        worlds.kill_group(process)
        worlds.finish(process)
        num_kills += 1
        saved = latest_checkpoint(folder.checkpoints)
        reached = 0 if saved is None else saved.step
        assert reached >= kept, "never worse than before"
        kept = reached
    code, output = worlds.finish(process)
    assert code == 0, output
    assert num_kills >= 3
    assert folder.read_status().attempts == num_kills + 1
    check_same(world, "instruct", folder)
