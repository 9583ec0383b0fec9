"""Real commands stopped by Ctrl-C: status 130, nothing left running, the same result later."""

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


def test_a_second_copy_of_a_command_is_refused_or_waits(world: Path) -> None:
    arguments = worlds.grid_arguments("twice", *LOUD)
    processes = [worlds.start(world, *arguments) for _ in range(2)]
    outputs = [worlds.finish(process) for process in processes]
    assert [code for code, _ in outputs] == [0, 0], outputs
    folder = worlds.stage_folder(world / "twice", "instruct")
    assert len(worlds.series(folder)) == 60, "no step was logged twice"
