"""Failures of stage runs that the command retries, and failures that it reports."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.store.retry_policy import Fault
from pipeline.store.states import State
from pipeline.store.store import StageFolder, Status
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow
_SHORT = ("--set", "align.num_steps=20", "retention.tasks=[]")


_LONG = ("instruct.num_steps=240", *(f"instruct.{name}.max_epochs=999" for name in
         ("visual.conversations", "text_only.chat", "text_only.text")))  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with the results of an undisturbed run in `calm`."""
    folder = worlds.build_world(tmp_path_factory.mktemp("world"))
    code, output = worlds.run(folder, worlds.grid_arguments("calm", *_SHORT, *_LONG))
    assert code == 0, output
    return folder


def _run(world: Path, root: str, *settings: str) -> tuple[int, str]:
    """Run the grid from stage 2 on; what comes before it is that of the undisturbed run."""
    for kind in ("features", "align"):
        place = Path("store", kind)
        if not (world / root / place).exists():
            shutil.copytree(world / "calm" / place, world / root / place)
    return worlds.run(world, worlds.grid_arguments(root, *_SHORT, *settings))


def _status(world: Path, root: str, kind: str = "instruct") -> Status:
    return StageFolder(worlds.stage_folder(world / root, kind)).read_status()


def _worker_of(folder: Path) -> int | None:
    """Return the process that writes to the log of a stage run."""
    for path in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if path.readlink() == folder / "log.txt":
                return int(path.parent.parent.name)
        except OSError:
            continue
    return None


def _meanwhile(world: Path, root: str, number: int, act: Callable[[int], Any]) -> threading.Thread:
    """Act on the process of stage 2 a number of times, each time after some progress."""

    def watch() -> None:
        since = time.time()
        for _ in range(number):
            while not list((world / root / "store" / "instruct").glob("*/metrics.jsonl")):
                time.sleep(0.05)
            folder = worlds.stage_folder(world / root, "instruct")
            worlds.wait_for_step(folder, 8, is_alive=lambda: True, since=since)
            since = time.time()
            if (worker := _worker_of(folder)) is not None:
                act(worker)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_killed_process_is_retried(world: Path) -> None:
    """One command ends with the losses and weights of an undisturbed run."""
    root = "killed"
    thread = _meanwhile(world, root, 2, lambda worker: os.kill(worker, signal.SIGKILL))
    code, output = _run(world, root, *_LONG)
    thread.join(10)
    assert code == 0, output
    status = _status(world, root)
    assert [failure.fault for failure in status.failures] == [Fault.DIED] * 2
    assert (status.state, status.attempts) == (State.DONE, 3)
    folders = [worlds.stage_folder(world / name, "instruct") for name in ("calm", root)]
    assert worlds.series(folders[0]) == worlds.series(folders[1])
    seals = [json.loads((folder / "result" / "complete.json").read_text()) for folder in folders]
    assert seals[0] == seals[1]
    report = next((world / root).glob("grids/*/report/report.html")).read_text()
    assert report.count("died on") == 2
    assert ": retried. " in report


def test_a_hang_is_ended_and_reported(world: Path) -> None:
    """A pipe without a reader in place of a file acts like a disk that no longer answers."""
    root = "hung"

    def block(worker: int) -> None:
        del worker
        trap = worlds.stage_folder(world / root, "instruct") / ".progress.json.tmp"
        while not trap.is_fifo():
            with contextlib.suppress(FileExistsError):
                os.mkfifo(trap)
        while not _status(world, root).failures:
            time.sleep(0.02)
        trap.unlink()

    thread = _meanwhile(world, root, 1, block)
    code, output = _run(world, root, *_LONG, "trainer.hung_after_s=2", "trainer.retries=1")
    thread.join(10)
    assert code == 0, output
    (failure,) = _status(world, root).failures
    assert failure.fault is Fault.HUNG
    log = (worlds.stage_folder(world / root, "instruct") / "log.txt").read_text()
    assert "stacks of all threads" in log
    assert "in write_progress" in log


def test_a_non_finite_loss_is_retried_once_and_reported(world: Path) -> None:
    root = "nan"
    more = (
        "instruct.optim.lr=1e30",
        "instruct.optim.grad_clip=0",
        "instruct.optim.warmup_fraction=0",
    )
    code, output = _run(world, root, *more)
    assert code == 1, output
    status = _status(world, root)
    assert [failure.fault for failure in status.failures] == [Fault.NOT_FINITE] * 2
    assert [failure.final for failure in status.failures] == [False, True]
    assert len({failure.error for failure in status.failures}) == 1, "deterministic"
    assert "lower optim.lr" in status.failures[0].error
    folder = StageFolder(worlds.stage_folder(world / root, "instruct"))
    assert folder.safe_step() < 60
    report = next((world / root).glob("grids/*/report/report.html")).read_text()
    assert ": not retried. " in report


def test_an_abandoned_run_is_retried_by_the_next_command(world: Path) -> None:
    root, gone = "again", ("trainer.retries=0", *_LONG)
    thread = _meanwhile(world, root, 1, lambda worker: os.kill(worker, signal.SIGKILL))
    code, output = _run(world, root, *gone)
    thread.join(10)
    assert code == 1, output
    assert [failure.final for failure in _status(world, root).failures] == [True]
    code, output = _run(world, root, *gone)
    assert code == 0, output
    assert dataclasses.asdict(_status(world, root))["state"] == State.DONE
