"""Real commands stopped by Ctrl-C: status 130, nothing left running, the same result later."""

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from core.process.interrupts import EXIT_INTERRUPTED
from tests.integration.conftest import LOUD
from tests.support import small_world as worlds
from tests.support.doubles import write_tar

pytestmark = pytest.mark.slow


def press_ctrl_c(process: worlds.Process) -> None:
    """Send the signal to the whole group of processes, as a terminal does."""
    os.killpg(process.pid, signal.SIGINT)


def check_stopped(process: worlds.Process, *, times: int = 1) -> str:
    """Press Ctrl-C, and check how the command ends; return its output."""
    children = psutil.Process(process.pid).children(recursive=True)
    for _ in range(times):
        press_ctrl_c(process)
        time.sleep(0.05)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED, output
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, output
    return output


@pytest.fixture(scope="module")
def world(trained_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained world, in which the tests stop commands."""
    return Path(shutil.copytree(trained_world, tmp_path_factory.mktemp("stopped") / "world"))


def test_a_grid_is_stopped_while_it_trains(world: Path) -> None:
    """Once, then twice; the third command ends with the losses and weights of a calm run."""
    root, arguments = world / "stopped", worlds.grid_arguments("stopped", *LOUD)
    first_step = 4
    for times in (1, 2):
        since = time.time()
        process = worlds.start(world, *arguments)
        while not list(root.glob("store/instruct/*/metrics.jsonl")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.004)
        folder = worlds.stage_folder(root, "instruct")
        is_alive = partial(_is_alive, process)
        worlds.wait_for_step(folder, first_step, is_alive=is_alive, since=since)
        output = check_stopped(process, times=times)
        assert ("Rerun the same command to resume" in output) == (times == 1)
        steps = [int(path.name[5:]) for path in (folder / "checkpoints").glob("step=*")]
        assert steps, "a checkpoint is kept"
        first_step = max(steps) + 4
    code, output = worlds.run(world, arguments)
    assert code == 0, output
    calm = worlds.stage_folder(world / "mlruns", "instruct")
    assert worlds.series(folder) == worlds.series(calm)
    seals = [(path / "result" / "complete.json").read_text() for path in (folder, calm)]
    assert seals[0] == seals[1]


def _is_alive(process: worlds.Process) -> bool:
    return process.poll() is None


def _report_begins(world: Path) -> bool:
    return bool(list(world.glob("mlruns/grids/*/report")))


@pytest.mark.parametrize(
    ("module", "arguments", "has_begun"),
    [
        ("experiments.run", worlds.grid_arguments("mlruns", *LOUD), lambda world: True),
        ("experiments.report", ("--exp", "mix_ablation", "--profile", "tiny"), _report_begins),
    ],
)
def test_a_command_without_stage_runs_is_stopped(
    world: Path, module: str, arguments: tuple[str, ...], has_begun: Callable[[Path], bool]
) -> None:
    shutil.rmtree(next(world.glob("mlruns/grids/*")) / "report", ignore_errors=True)
    process = worlds.start(world, *arguments, module=module)
    while not has_begun(world):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    time.sleep(0.3)
    assert check_stopped(process).endswith("stopped by Ctrl-C\n")
    code, output = worlds.finish(worlds.start(world, *arguments, module=module))
    assert code == 0, output
    assert _report_begins(world)


def shards_to_index(folder: Path, out: str) -> tuple[str, ...]:
    """Write shards that take a moment to index with two processes."""
    for shard in range(4):
        samples = [(f"{shard}-{i}", b"irudia", worlds.image(i)) for i in range(100)]
        members = [
            member
            for key, text, image in samples
            for member in ((f"{key}.webp", image), (f"{key}.txt", text))
        ]
        write_tar(folder / f"{shard}.tar", members)
    return ("{0..3}.tar", "--name", "b", "--language", "eu", "--out", out, "--jobs", "2")


def rows_to_import(folder: Path, out: str) -> tuple[str, ...]:
    """Write a benchmark that takes a moment to import."""
    lines = []
    for i in range(300):
        (folder / f"{i}.webp").write_bytes(worlds.image(i))
        row = {"question_id": i, "image": f"{i}.webp", "question": "Zer da?", "answers": ["bat"]}
        lines.append(json.dumps(row) + "\n")
    (folder / "rows.jsonl").write_text("".join(lines))
    return ("--recipe", "open", "--name", "b", "--source", "eu=rows.jsonl", "--out", out)


@pytest.mark.parametrize(
    ("module", "prepare"),
    [
        ("data_prep.index", shards_to_index),
        ("data_prep.import_benchmark", rows_to_import),
    ],
)
def test_a_command_is_stopped_at_any_moment(
    tmp_path: Path, module: str, prepare: Callable[[Path, str], tuple[str, ...]]
) -> None:
    """Moments all over its work; then the same command ends with the files of a calm run."""
    code, output = worlds.finish(worlds.start(tmp_path, *prepare(tmp_path, "calm"), module=module))
    assert code == 0, output
    last = ""
    for number, delay_s in enumerate((0, 0.05, 0.2)):
        out = f"out{number}"
        process = worlds.start(tmp_path, *prepare(tmp_path, out), module=module)
        while not (tmp_path / out).exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        time.sleep(delay_s)
        with contextlib.suppress(ProcessLookupError):
            press_ctrl_c(process)
        output, _ = process.communicate(timeout=60)
        assert "Traceback" not in output
        assert process.returncode in (0, EXIT_INTERRUPTED), output
        if process.returncode == EXIT_INTERRUPTED:
            assert output.endswith("stopped by Ctrl-C\n")
            last = out
    assert last, "at least the first one was stopped"
    arguments = prepare(tmp_path, last)
    if not (tmp_path / last / "b.manifest.json").exists():
        code, output = worlds.finish(worlds.start(tmp_path, *arguments, module=module))
        assert code == 0, output
    left = [path.name for path in (tmp_path / last).rglob("*") if path.is_file()]
    assert not [name for name in left if name.endswith(".tmp")]
    manifests = [(tmp_path / name / "b.manifest.json").read_text() for name in ("calm", last)]
    assert manifests[0] == manifests[1]


def test_a_second_copy_of_a_command_is_refused_or_waits(world: Path) -> None:
    arguments = worlds.grid_arguments("twice", *LOUD)
    processes = [worlds.start(world, *arguments) for _ in range(2)]
    outputs = [worlds.finish(process) for process in processes]
    assert [code for code, _ in outputs] == [0, 0], outputs
    folder = worlds.stage_folder(world / "twice", "instruct")
    assert len(worlds.series(folder)) == 60, "no step was logged twice"
