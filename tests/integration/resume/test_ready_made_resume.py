"""A killed training of a ready-made model on images of ten sizes resumes on other topologies.

Every rank records the samples that it trains on. The global batches of all attempts must be those
of an uninterrupted run of one process, and so must losses and weights.
"""

import dataclasses
import signal
import time
from collections.abc import Iterator

import pytest
import safetensors.torch
import torch

from callbacks.checkpoints import latest_checkpoint
from core.config import dump_config, load_config
from pipeline.stages.registry import stage_class
from pipeline.store.store import StageFolder
from tests.support import ranks
from tests.support import ready_world as ready
from tests.support import small_world as worlds
from tests.support.ranks import World
from tests.support.servers.recording_worker import MODULE, Ref, read_attempts

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Resources of an attempt, none of which may change the samples that it trains on."""

    ranks: int
    loader_workers: int
    micro_batch_tokens: int
    killed_at: int = 0
    """Step after which the attempt is killed; 0 runs to the end."""


ATTEMPTS = (
    Topology(ranks=2, loader_workers=1, micro_batch_tokens=1024, killed_at=6),
    Topology(ranks=1, loader_workers=2, micro_batch_tokens=2048, killed_at=11),
    Topology(ranks=3, loader_workers=0, micro_batch_tokens=512),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield ready.build_ready_world(folder, "qwen3_vl")


def prepare(world: World, root: str, topology: Topology) -> StageFolder:
    folder = ranks.prepare(world, "instruct", root=root, devices=topology.ranks)
    spec = folder.path / "spec.yaml"
    changes = [
        f"stream.num_workers={topology.loader_workers}",
        f"stream.micro_batch_tokens={topology.micro_batch_tokens}",
    ]
    spec.write_text(dump_config(load_config(stage_class("instruct"), spec, overrides=changes)))
    return folder


def run_until_killed(world: World, folder: StageFolder, step: int) -> int:
    """Kill an attempt after a step; returns the step from which the next one goes on."""
    since = time.time()
    process = ranks.start(world, folder, module=MODULE)
    worlds.wait_for_step(folder.path, step, is_alive=lambda: process.poll() is None, since=since)
    process.send_signal(signal.SIGKILL)
    worlds.finish(process)
    assert process.returncode == -signal.SIGKILL
    saved = latest_checkpoint(folder.checkpoints)
    assert saved is not None
    return saved.step


def global_batches(folder: StageFolder) -> dict[int, list[Ref]]:
    """Return the samples of every step of an uninterrupted run."""
    (steps,) = read_attempts(folder.path)
    return {step: recorded.global_batch for step, recorded in steps.items()}


def weights(folder: StageFolder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder.result / "model.safetensors")


def test_global_batches_do_not_depend_on_kills_and_topologies(world: World) -> None:
    one = Topology(ranks=1, loader_workers=0, micro_batch_tokens=1024)
    whole = prepare(world, "one", one)
    ranks.run_to_the_end(world, whole, module=MODULE)
    expected = global_batches(whole)
    assert sorted(expected) == list(range(ranks.NUM_STEPS))
    keys = {key for batch in expected.values() for _, _, key, _ in batch if "image" in key}
    shapes = {ready.image_shape(int(key.split("-")[1])) for key in keys}
    assert len(shapes) == 10, "images of ten sizes"

    starts = [0]
    for topology in ATTEMPTS:
        folder = prepare(world, "killed", topology)
        if topology.killed_at:
            starts.append(run_until_killed(world, folder, topology.killed_at))
        else:
            ranks.run_to_the_end(world, folder, module=MODULE)
    assert starts == [0, 5, 10]

    attempts = read_attempts(folder.path)
    for topology, start, stop, steps in zip(
        ATTEMPTS, starts, [*starts[1:], ranks.NUM_STEPS], attempts, strict=True
    ):
        assert min(steps) == start
        for step, recorded in steps.items():
            assert recorded.world_size == topology.ranks
            if recorded.is_complete:
                assert recorded.global_batch == expected[step], (topology, step)
            else:
                assert step >= stop, (topology, step, "committed, but not by every rank")
                assert {*recorded.global_batch} <= {*expected[step]}
        assert set(range(start, stop)) <= set(steps)
    num_shares = [len([s for s in step.shares if s]) for step in attempts[0].values()]
    assert max(num_shares) == 2, "both ranks train"

    losses = [worlds.series(one.path) for one in (whole, folder)]
    assert sorted(losses[1]) == list(range(ranks.NUM_STEPS))
    assert losses[1] == pytest.approx(losses[0], rel=ranks.TOLERANCE)
    torch.testing.assert_close(weights(folder), weights(whole), rtol=0, atol=ranks.TOLERANCE)
