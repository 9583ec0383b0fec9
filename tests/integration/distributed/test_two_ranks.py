"""Two processes compute what one computes: the same losses at every step, the same weights.

The data are ragged: conversations of different lengths beside samples without an image, several
micro-batches in a step, some of them on one rank only.
"""

import dataclasses
import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from callbacks.checkpoints import latest_checkpoint
from configuration.trainer import TrainerConfig
from core.process.stop import EXIT_PREEMPTED
from experiments import run
from experiments.cli import request_of
from experiments.planning import make_plan
from pipeline.graph import Graph, StageNode
from pipeline.launchers.execution import Execution, write_execution
from pipeline.store.store import StageFolder, Store
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow

NUM_STEPS = 16
TOLERANCE = 1e-5
"""Relative for losses, absolute for weights: sums of fp32 numbers in another order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    folder: Path
    graph: Graph

    def node(self, kind: str) -> StageNode:
        (node,) = (node for node in self.graph.nodes.values() if node.kind == kind)
        return node


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Build a world with features and the results of one rank in `one`."""
    folder = worlds.build_world(tmp_path_factory.mktemp("world"))
    steps = [f"{stage}.num_steps={NUM_STEPS}" for stage in ("align", "instruct")]
    arguments = worlds.grid_arguments("one", "--set", *steps)
    before = Path.cwd()
    os.chdir(folder)
    try:
        graph = make_plan(request_of(run.build_parser().parse_args(arguments))).graph
        world = World(folder=folder, graph=graph)
        for kind in ("features", "align", "instruct"):
            train(world, kind, root="one", devices=1)
        yield world
    finally:
        os.chdir(before)


def prepare(
    world: World, kind: str, *, root: str, devices: int, checkpoint_every_n_steps: int = 5
) -> StageFolder:
    node, store = world.node(kind), Store(Path(root))
    folder = store.folder(kind, node.address)
    for upstream in node.inputs.values():
        place = Path("store", upstream.kind, upstream.address)
        if not (root / place).exists():
            shutil.copytree("one" / place, root / place)
    folder.write_stage(node.describe(), node.stage)
    trainer = TrainerConfig(
        devices=devices,
        checkpoint_every_n_steps=checkpoint_every_n_steps,
        log_every_n_steps=1,
    )
    write_execution(folder, Execution(root=root, num_threads=1, trainer=trainer))
    return folder


def train(world: World, kind: str, *, root: str, devices: int) -> StageFolder:
    folder = prepare(world, kind, root=root, devices=devices)
    process = worlds.start(world.folder, str(folder.path), module="pipeline.launchers.worker")
    code, output = worlds.finish(process)
    assert code == 0, output
    assert folder.is_done()
    return folder


def check_same(world: World, kind: str, folder: StageFolder) -> None:
    single = Store(Path("one")).folder(kind, world.node(kind).address)
    expected, found = worlds.series(single.path), worlds.series(folder.path)
    assert sorted(found) == sorted(expected) == list(range(NUM_STEPS))
    for step, loss in expected.items():
        assert math.isclose(found[step], loss, rel_tol=TOLERANCE), (step, found[step], loss)
    theirs = safetensors.torch.load_file(single.result / "model.safetensors")
    ours = safetensors.torch.load_file(folder.result / "model.safetensors")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["align", "instruct"])
def test_two_ranks_train_like_one(world: World, kind: str) -> None:
    check_same(world, kind, train(world, kind, root="two", devices=2))


def test_two_ranks_stop_together_and_one_resumes(world: World) -> None:
    """SIGTERM to one rank saves on both; the next attempt has another number of ranks."""
    folder = prepare(world, "instruct", root="stopped", devices=2)
    process = worlds.start(world.folder, str(folder.path), module="pipeline.launchers.worker")
    worlds.wait_for_step(folder.path, 3, is_alive=lambda: process.poll() is None, since=0.0)
    process.send_signal(signal.SIGTERM)
    code, output = worlds.finish(process)
    assert code == EXIT_PREEMPTED, output
    saved = latest_checkpoint(folder.checkpoints)
    assert saved is not None
    assert saved.step == max(worlds.series(folder.path)) + 1
    check_same(world, "instruct", train(world, "instruct", root="stopped", devices=1))
