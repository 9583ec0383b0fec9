"""Kill the command at any moment and rerun it: the result equals that of an uninterrupted run.

The reference is one uninterrupted run of the real command. Then the stage processes are killed as
the launcher starts them (forked), and after that the whole command, in three ways.
"""

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from callbacks.checkpoints import latest_checkpoint
from configuration.trainer import TrainerConfig
from core.config import load_config
from core.errors import PreemptedError
from core.process.stop import EXIT_PREEMPTED, StopFlag
from experiments import run
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from models.vlm import VisionLanguageModel
from pipeline.graph import Graph
from pipeline.launchers.execution import Execution, write_execution
from pipeline.launchers.local import StageProcess
from pipeline.stages.base import StageContext
from pipeline.stages.evaluate import EvaluateStage
from pipeline.store.states import State
from pipeline.store.store import StageFolder, Store
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow

NUM_STEPS, EVERY_N_STEPS = 160, 7
"""Number of steps; a stage must last longer than the launcher needs to forward a signal."""
TRAINED = ("align", "instruct")
KILLS_PER_SIGNAL = 3
LENGTH = ("--set", *(f"{stage}.num_steps={NUM_STEPS}" for stage in TRAINED))
TRAINER = TrainerConfig(checkpoint_every_n_steps=EVERY_N_STEPS, log_every_n_steps=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """World with the results of an uninterrupted run in `ref`."""

    world: Path
    graph: Graph

    @property
    def root(self) -> Path:
        return self.world / "ref"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    world = worlds.build_world(tmp_path_factory.mktemp("world"))
    code, output = worlds.run(world, worlds.grid_arguments("ref", *LENGTH))
    assert code == 0, output
    before = Path.cwd()
    os.chdir(world)  # paths of manifests are relative to the working directory
    try:
        args = run.build_parser().parse_args(worlds.grid_arguments("ref", *LENGTH))
        plan = make_plan(request_of(args))
        yield Reference(world=world, graph=plan.graph)
    finally:
        os.chdir(before)


def weights(root: Path, kind: str) -> bytes:
    return (worlds.stage_folder(root, kind) / "result" / "model.safetensors").read_bytes()


def prepare(reference: Reference, kind: str, root: Path) -> StageFolder:
    """Prepare a store in which the inputs of a stage are done and the stage can start."""
    (node,) = (node for node in reference.graph.nodes.values() if node.kind == kind)
    for upstream in node.inputs.values():
        place = Path("store", upstream.kind, upstream.address)
        shutil.copytree(reference.root / place, root / place)
    folder = Store(root).folder(kind, node.address)
    folder.write_stage(node.describe(), node.stage)
    write_execution(folder, Execution(root=str(root), num_threads=1, trainer=TRAINER))
    return folder


def start_worker(folder: StageFolder) -> tuple[StageProcess, int]:
    process = StageProcess.start(folder, as_command=False)
    pid = process._process.pid
    assert pid is not None
    return process, pid


def _is_alive(process: StageProcess) -> bool:
    return process.exit_code() is None


def wait_for_end(process: StageProcess, timeout_s: float = 120.0) -> int:
    deadline = time.monotonic() + timeout_s
    while (code := process.exit_code()) is None:
        assert time.monotonic() < deadline, "the stage run did not end"
        time.sleep(0.01)
    return code


def kill_plan(seed: str) -> list[tuple[signal.Signals, int, float]]:
    """Return signals in random order, each with a later step and a moment within the step."""
    rng = random.Random(seed)
    signals = [signal.SIGTERM, signal.SIGKILL] * KILLS_PER_SIGNAL
    rng.shuffle(signals)
    steps = sorted(rng.sample(range(1, NUM_STEPS - 15), len(signals)))
    return [
        (number, step, rng.random() * 0.05) for number, step in zip(signals, steps, strict=True)
    ]


@pytest.mark.parametrize("kind", TRAINED)
def test_a_killed_stage_resumes_to_identical_bits(
    reference: Reference, kind: str, tmp_path: Path
) -> None:
    folder = prepare(reference, kind, tmp_path)
    kills = kill_plan(kind)
    for attempt, (number, step, delay_s) in enumerate(kills, start=1):
        since = time.time()
        process, pid = start_worker(folder)
        is_alive = partial(_is_alive, process)
        worlds.wait_for_step(folder.path, step, is_alive=is_alive, since=since)
        time.sleep(delay_s)
        os.kill(pid, number)
        code = wait_for_end(process)
        taken = max(worlds.series(folder.path)) + 1
        saved = latest_checkpoint(folder.checkpoints)
        num_saved = saved.step if saved else 0
        if number is signal.SIGTERM:
            assert code == EXIT_PREEMPTED
            assert folder.read_status().state is State.INTERRUPTED
            assert num_saved == taken, "SIGTERM lost a step"
        else:
            assert code == -signal.SIGKILL
            assert taken - num_saved <= EVERY_N_STEPS
        assert folder.read_status().attempts == attempt
        assert not folder.is_done()
    process, _ = start_worker(folder)
    assert wait_for_end(process) == 0
    assert weights(tmp_path, kind) == weights(reference.root, kind)
    losses = worlds.series(folder.path)
    assert losses == worlds.series(worlds.stage_folder(reference.root, kind))
    assert sorted(losses) == list(range(NUM_STEPS))
    assert not folder.checkpoints.exists()


def test_a_stopped_evaluation_resumes_with_the_missing_questions(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are byte-identical to those of an undisturbed evaluation."""
    flag, asked, generate = StopFlag(), list[int](), VisionLanguageModel.generate

    def watched(self: VisionLanguageModel, prompts: Sequence[Any], *more: Any, **named: Any) -> Any:
        asked.append(len(prompts))
        flag.is_set = root.name == "stopped" and len(asked) <= 3
        return generate(self, prompts, *more, **named)

    monkeypatch.setattr(VisionLanguageModel, "generate", watched)
    monkeypatch.setattr("evaluation.answerers.vlm.BATCHES_PER_SLICE", 4)
    files, attempts, sizes = dict[str, dict[str, bytes]](), 0, dict[str, list[int]]()
    for root in (tmp_path / "calm", tmp_path / "stopped"):
        folder = prepare(reference, "evaluate", root)
        folder.scratch.mkdir()
        spec = load_config(EvaluateStage, folder.path / "spec.yaml")
        spec = dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, batch_size=1))
        node = reference.graph.nodes[folder.path.name]
        inputs = {role: Store(root).folder(one.kind, one.address).result
                  for role, one in node.inputs.items()}  # fmt: skip
        context = StageContext(folder=folder, inputs=inputs, cache=root / "cache", trainer=TRAINER,
                               flag=flag, on_hung=lambda _: None)  # fmt: skip
        asked.clear()
        while True:
            attempts += 1
            flag.is_set = False
            with contextlib.suppress(PreemptedError):
                spec.run(context)
                break
        sizes[root.name] = list(asked)
        files[root.name] = {path.name: path.read_bytes() for path in folder.scratch.iterdir()}
    assert attempts == 1 + 4
    assert sizes["stopped"] == sizes["calm"]
    assert sizes["calm"][:3] == [4, 4, 4]
    assert len(files["calm"]) >= 3
    assert files["stopped"] == files["calm"]


def test_the_status_of_a_stage_killed_after_its_rename_is_completed(
    reference: Reference, tmp_path: Path
) -> None:
    """A kill after the rename leaves a result and the status `running`."""
    root = tmp_path / "copy"
    shutil.copytree(reference.root / "store", root / "store")
    folder = StageFolder(worlds.stage_folder(root, "align"))
    status = folder.read_status()
    status.state, status.ended = State.RUNNING, 0.0
    folder.write_status(status)
    process, _ = start_worker_in(folder, root)
    assert wait_for_end(process) == 0
    settled = folder.read_status()
    assert settled.state is State.DONE
    assert settled.ended > 0
    assert settled.attempts == status.attempts


def start_worker_in(folder: StageFolder, root: Path) -> tuple[StageProcess, int]:
    write_execution(folder, Execution(root=str(root), num_threads=1, trainer=TRAINER))
    return start_worker(folder)


def finished_stages(root: Path) -> dict[str, tuple[int, float]]:
    """Return the attempts and the time of the result of every finished stage, by kind."""
    found = {}
    for path in (root / "store").glob("*/*"):
        folder = StageFolder(path)
        if folder.is_done():
            found[path.parent.name] = (folder.read_status().attempts, folder.result.stat().st_mtime)
    return found


def mlflow_runs(root: Path) -> set[tuple[str, str]]:
    """Return the ids and names of all runs in the local MLflow store, including deleted ones."""
    with sqlite3.connect(root / "mlflow.db") as database:
        return set(database.execute("select run_uuid, name from runs"))


def wait_for_stage(root: Path, kind: str, process: worlds.Process, *, step: int) -> None:
    deadline, since = time.monotonic() + 120, time.time()
    while not list((root / "store" / kind).glob("*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{kind} did not start"
        time.sleep(0.01)
    folder = worlds.stage_folder(root, kind)
    is_alive = lambda: process.poll() is None  # noqa: E731
    worlds.wait_for_step(folder, step, is_alive=is_alive, since=since)


def lose_the_machine(world: Path, root: Path, arguments: Sequence[str]) -> None:
    """Kill the command and all its processes with SIGKILL while stage 1 trains."""
    process = worlds.start(world, *arguments)
    wait_for_stage(root, "align", process, step=10)
    worlds.kill_group(process)
    process.communicate()


def lose_the_command(world: Path, root: Path, arguments: Sequence[str]) -> None:
    """Kill the command alone with SIGKILL: its worker notices, saves and exits."""
    process = worlds.start(world, *arguments)
    wait_for_stage(root, "instruct", process, step=5)
    process.kill()
    instruct = StageFolder(worlds.stage_folder(root, "instruct"))
    deadline = time.monotonic() + 60
    while instruct.read_status().state is State.RUNNING and time.monotonic() < deadline:
        time.sleep(0.02)
    worlds.kill_group(process)
    process.communicate()
    assert instruct.read_status().state is State.INTERRUPTED
    check_nothing_lost(instruct)


def stop_politely(world: Path, root: Path, arguments: Sequence[str]) -> None:
    """Stop the command with SIGTERM, which it forwards to its worker."""
    process = worlds.start(world, *arguments)
    instruct = StageFolder(worlds.stage_folder(root, "instruct"))
    taken = max(worlds.series(instruct.path))
    wait_for_stage(root, "instruct", process, step=taken + 4)
    process.send_signal(signal.SIGTERM)
    code, output = worlds.finish(process)
    assert code == EXIT_PREEMPTED, output
    assert "Rerun the same command to resume" in output
    check_nothing_lost(instruct)


def check_nothing_lost(folder: StageFolder) -> None:
    saved = latest_checkpoint(folder.checkpoints)
    assert saved is not None
    assert saved.step == max(worlds.series(folder.path)) + 1


def test_the_command_resumes_after_any_kill(reference: Reference) -> None:
    world, root, arguments = (
        reference.world,
        Path("killed"),
        worlds.grid_arguments("killed", *LENGTH),
    )
    lose_the_machine(world, root, arguments)
    first, runs = finished_stages(root), mlflow_runs(root)
    assert first.keys() == {"features"}

    lose_the_command(world, root, arguments)
    second = finished_stages(root)
    assert second.keys() == {"features", "align"}
    assert second["features"] == first["features"]
    assert second["align"][0] == 2, "attempts at stage 1"
    assert runs <= mlflow_runs(root)
    runs = mlflow_runs(root)

    stop_politely(world, root, arguments)
    assert finished_stages(root) == second
    assert runs <= mlflow_runs(root)  # a command killed early had not created the run of stage 2
    runs = mlflow_runs(root)
    assert len({name for _, name in runs}) == len(runs), "MLflow has a run twice"

    code, output = worlds.run(world, arguments)
    assert code == 0, output
    last = finished_stages(root)
    assert {kind: last[kind] for kind in second} == second
    assert last.keys() == {"features", "align", "instruct", "evaluate"}
    assert runs < mlflow_runs(root)
    assert len(mlflow_runs(root)) == len(last) + 1, "MLflow has a run too many"
    for kind in TRAINED:
        assert weights(root, kind) == weights(reference.root, kind)
        ours, undisturbed = (
            worlds.series(worlds.stage_folder(place, kind)) for place in (root, reference.root)
        )
        assert ours == undisturbed
    check_points_are_unique(root)


def check_points_are_unique(root: Path) -> None:
    """Assert that no metric of a run has two values at one step, in MLflow and on disk."""
    with sqlite3.connect(root / "mlflow.db") as database:
        query = "select run_uuid, key, step from metrics where key = 'train/loss'"
        points = database.execute(query).fetchall()
    assert len(points) == 2 * NUM_STEPS
    assert len(set(points)) == len(points)


def test_a_finished_grid_is_not_rerun(reference: Reference) -> None:
    before, runs = finished_stages(reference.root), mlflow_runs(reference.root)
    code, output = worlds.run(reference.world, worlds.grid_arguments("ref", *LENGTH))
    assert code == 0, output
    assert finished_stages(reference.root) == before
    assert mlflow_runs(reference.root) == runs


def test_dataloader_workers_change_nothing(reference: Reference) -> None:
    """DataLoader workers are forked from a stage run that was forked from the server."""
    arguments = worlds.grid_arguments("workers", *LENGTH, "trainer.num_workers=2")
    code, output = worlds.run(reference.world, arguments)
    assert code == 0, output
    for kind in TRAINED:
        assert weights(reference.world / "workers", kind) == weights(reference.root, kind)
