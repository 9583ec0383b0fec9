"""Stage runs of a small world on one or several processes, compared with each other."""

import dataclasses
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from configuration.trainer import TrainerConfig
from experiments import run
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from pipeline.graph import Graph, StageNode
from pipeline.launchers.execution import Execution, write_execution
from pipeline.store.store import StageFolder, Store
from tests.support import small_world as worlds

NUM_STEPS = 16
AGREEMENT_STEPS = 8
"""Interval of the gradient agreement of the process that trains alone."""
TOLERANCE = 1e-5
"""Relative for losses, absolute for weights: sums of fp32 numbers in another order."""
AGREEMENT = "gradient_cosine/en-eu"
WORKER = "pipeline.launchers.worker"


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The working directory of the tests, and the graph of its only cell."""

    folder: Path
    graph: Graph

    def node(self, kind: str) -> StageNode:
        """Return the only stage run of a kind."""
        (node,) = (node for node in self.graph.nodes.values() if node.kind == kind)
        return node


def build_ranks_world(folder: Path, *settings: str) -> World:
    """Build a world whose stages were trained by one process, in `one`; it is the directory.

    Args:
        folder: The folder of the world.
        settings: Further arguments of `--set`.
    """
    worlds.build_world(folder)
    steps = [f"{stage}.num_steps={NUM_STEPS}" for stage in ("align", "instruct")]
    arguments = worlds.grid_arguments("one", "--set", *steps, *settings)
    graph = make_plan(request_of(run.build_parser().parse_args(arguments))).graph
    world = World(folder=folder, graph=graph)
    kinds = {node.kind for node in graph.nodes.values()}
    for kind in ("features", "align", "instruct"):
        if kind not in kinds:  # an architecture without a tower
            continue
        train(world, kind, root="one", devices=1, agreement_every_n_steps=AGREEMENT_STEPS)
    return world


def prepare(
    world: World,
    kind: str,
    *,
    root: str,
    devices: int,
    num_nodes: int = 1,
    checkpoint_every_n_steps: int = 5,
    agreement_every_n_steps: int = 0,
) -> StageFolder:
    """Return a stage folder that is ready to run, with its inputs from `one`."""
    node, store = world.node(kind), Store(Path(root))
    folder = store.folder(kind, node.address)
    for upstream in node.inputs.values():
        place = Path("store", upstream.kind, upstream.address)
        if not (root / place).exists():
            shutil.copytree("one" / place, root / place)
    folder.write_stage(node.describe(), node.stage)
    trainer = TrainerConfig(
        devices=devices,
        num_nodes=num_nodes,
        checkpoint_every_n_steps=checkpoint_every_n_steps,
        log_every_n_steps=1,
        gradient_agreement_every_n_steps=agreement_every_n_steps,
    )
    write_execution(folder, Execution(root=root, num_threads=1, trainer=trainer))
    return folder


def start(
    world: World,
    folder: StageFolder,
    variables: Mapping[str, str] = {},
    *,
    module: str = WORKER,
) -> worlds.Process:
    """Start a prepared stage run on a node; Lightning starts its further ranks there."""
    return worlds.start(world.folder, str(folder.path), module=module, variables=variables)


def run_to_the_end(world: World, folder: StageFolder, *, module: str = WORKER) -> None:
    """Run a prepared stage run, which must succeed."""
    code, output = worlds.finish(start(world, folder, module=module))
    assert code == 0, output
    assert folder.is_done()


def train(
    world: World, kind: str, *, root: str, devices: int, agreement_every_n_steps: int = 0
) -> StageFolder:
    """Prepare a stage run and run it to the end."""
    folder = prepare(
        world, kind, root=root, devices=devices, agreement_every_n_steps=agreement_every_n_steps
    )
    run_to_the_end(world, folder)
    return folder


def check_same(world: World, kind: str, folder: StageFolder, *, has_agreement: bool = True) -> None:
    """Compare losses, also by language, and weights with those that one process trained.

    Args:
        world: The world of both stage runs.
        kind: Stage kind.
        folder: Folder of the stage run.
        has_agreement: Whether both languages have gradients in the steps that measure them.
    """
    single = Store(Path("one")).folder(kind, world.node(kind).address)
    assert sorted(worlds.series(folder.path)) == list(range(NUM_STEPS))
    for name in ("train/loss", "loss_by_language/en", "loss_by_language/eu"):
        expected, found = worlds.series(single.path, name), worlds.series(folder.path, name)
        assert sorted(found) == sorted(expected) != []
        for step, loss in expected.items():
            place = (name, step, found[step], loss)
            assert math.isclose(found[step], loss, rel_tol=TOLERANCE), place
    if has_agreement:
        check_same_agreement(single, folder)
    theirs = safetensors.torch.load_file(single.result / "model.safetensors")
    ours = safetensors.torch.load_file(folder.result / "model.safetensors")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


def check_same_agreement(single: StageFolder, folder: StageFolder) -> None:
    """Compare the agreement of gradients, where it was measured, with that of one process."""
    expected, found = (worlds.series(one.path, AGREEMENT) for one in (single, folder))
    assert sorted(expected) == [AGREEMENT_STEPS - 1, NUM_STEPS - 1]
    for step, cosine in found.items():
        assert math.isclose(cosine, expected[step], abs_tol=1e-4), (step, cosine, expected[step])
