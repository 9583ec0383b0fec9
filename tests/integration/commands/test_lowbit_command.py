"""The real commands with low-rank adapters, 4-bit weights and 8-bit moments: training, stopping,
resuming and evaluating with one process and two."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch

from core.errors import ConfigError
from core.process.stop import EXIT_PREEMPTED
from experiments import run
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from pipeline.graph import Graph
from tests.support import small_world as worlds
from tests.support.ranks import NUM_STEPS, World, check_same, prepare, start, train

pytestmark = pytest.mark.slow

LENGTH = [f"{stage}.num_steps={NUM_STEPS}" for stage in ("align", "instruct")]
LORA = ["instruct.tuning.kind=lora"]
LEVERS = {
    "qlora": [  # with dropout
        "align.tuning.kind=qlora",
        "instruct.tuning.kind=qlora",
        "instruct.optim.optimizer=adamw_8bit",
    ],
    "eight_bit": [f"{stage}.optim.optimizer=adamw_8bit" for stage in ("align", "instruct")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = worlds.build_world(tmp_path_factory.mktemp("world"))
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


def graph_of(root: str, levers: list[str]) -> Graph:
    arguments = worlds.grid_arguments(root, "--set", *LENGTH, *levers)
    return make_plan(request_of(run.build_parser().parse_args(arguments))).graph


@pytest.mark.parametrize("name", LEVERS)
def test_a_resumed_run_equals_an_uninterrupted_one(folder: Path, name: str) -> None:
    """Weights, losses and answers are bit-identical."""
    arguments = ("--set", *LENGTH, *LEVERS[name])
    whole, stopped = Path(f"{name}-whole"), Path(f"{name}-stopped")
    code, output = worlds.run(folder, worlds.grid_arguments(whole.name, *arguments))
    assert code == 0, output
    world = World(folder=folder, graph=graph_of(whole.name, LEVERS[name]))
    (stopped / "store").mkdir(parents=True)
    for kind in ("features", "align"):
        (whole / "store" / kind).rename(stopped / "store" / kind)
    instruct = prepare(world, "instruct", root=stopped.name, devices=1)
    process = start(world, instruct)
    worlds.wait_for_step(instruct.path, 4, is_alive=lambda: process.poll() is None, since=0.0)
    process.send_signal(signal.SIGTERM)
    code, output = worlds.finish(process)
    assert code == EXIT_PREEMPTED, output
    assert max(worlds.series(instruct.path)) < NUM_STEPS - 1
    code, output = worlds.run(folder, worlds.grid_arguments(stopped.name, *arguments))
    assert code == 0, output

    undisturbed = worlds.stage_folder(whole, "instruct")
    assert worlds.series(instruct.path) == worlds.series(undisturbed)
    weights = [place / "result" / "model.safetensors" for place in (instruct.path, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    parts = safetensors.torch.load_file(weights[0])
    learned = {key.rsplit(".", 3)[1] for key in parts if key.startswith("language_model")}
    assert ("lora_A" in learned) == (name != "eight_bit")
    if name != "eight_bit":
        assert learned == {"lora_A", "lora_B"}
    answers = [worlds.stage_folder(root, "evaluate") / "result" for root in (whole, stopped)]
    for file in ("predictions.parquet", "metrics.json"):
        assert (answers[0] / file).read_bytes() == (answers[1] / file).read_bytes()


def test_two_ranks_train_adapters_like_one(folder: Path) -> None:
    """Dropout is off, because every rank draws its own noise."""
    graph = graph_of("one", [*LORA, "instruct.tuning.dropout=0"])
    world = World(folder=folder, graph=graph)
    for kind in ("features", "align", "instruct"):
        train(world, kind, root="one", devices=1)
    trained = train(world, "instruct", root="two", devices=2)
    check_same(world, "instruct", trained, has_agreement=False)


@pytest.mark.parametrize(
    ("levers", "words"),
    [
        (["optim.optimizer=adamw_8bit", "compute.strategy=fsdp2"], "set optimizer=adamw"),
        (["tuning.kind=qlora", "compute.strategy=fsdp2"], "set strategy=ddp"),
    ],
)
def test_a_plan_rejects_what_training_would_reject(
    folder: Path, levers: list[str], words: str
) -> None:
    del folder
    with pytest.raises(ConfigError, match=words):
        graph_of("dry", [f"instruct.{lever}" for lever in levers])


def test_tuning_changes_only_the_addresses_it_affects(folder: Path) -> None:
    del folder
    plain, adapted = graph_of("a", []), graph_of("a", LORA)
    (cell,) = plain.cells
    changed = {
        kind for kind, address in plain.cells[cell].items() if address != adapted.cells[cell][kind]
    }
    assert changed == {"instruct", "evaluate"}
    specs = [dataclasses.asdict(n.stage) for n in adapted.nodes.values() if n.kind == "evaluate"]
    assert specs[0]["tuning"]["kind"] == "lora"
