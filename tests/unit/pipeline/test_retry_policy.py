"""The retry policy, the status of failed stage runs, and the watchdog."""

import dataclasses
import errno
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.watchdog import Watchdog
from core.errors import ConfigError, DataError, NotFiniteError, UnsavedError
from core.process.stop import EXIT_HUNG
from datamodules.storage.remote import StorageError
from pipeline.store.retry_policy import Failure, Fault, fault_of, find_bad_nodes, next_attempt_time
from pipeline.store.states import State
from pipeline.store.store import (
    PARTIAL_RESULTS,
    StageFolder,
    can_start,
    reset_attempt,
    should_retry,
    timed_attempt,
)


def _row(*faults: Fault, steps: tuple[int, ...] = (), node: str = "n1") -> list[Failure]:
    steps = steps or (5,) * len(faults)
    return [
        Failure(fault=fault, error="", node=node, step=step, time=100.0)
        for fault, step in zip(faults, steps, strict=True)
    ]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (DataError("shard"), Fault.OWN),
        (ConfigError("x"), Fault.OWN),
        (ValueError("x"), Fault.OWN),
        (RuntimeError("shape mismatch"), Fault.OWN),
        (FileNotFoundError(errno.ENOENT, "no"), Fault.OWN),
        (torch.OutOfMemoryError("CUDA out of memory"), Fault.MEMORY),
        (MemoryError(), Fault.MEMORY),
        (NotFiniteError("step 3"), Fault.NOT_FINITE),
        (OSError(errno.ENOSPC, "full"), Fault.STORAGE),
        (OSError(errno.ESTALE, "stale"), Fault.STORAGE),
        (StorageError("s3://x"), Fault.STORAGE),
        (UnsavedError("3 in a row"), Fault.STORAGE),
        (RuntimeError("[third_party/gloo/transport] Connection closed by peer"), Fault.PEER),
        (RuntimeError("Application timeout caused pair closure"), Fault.PEER),
        (torch.distributed.DistBackendError("NCCL timeout"), Fault.PEER),
    ],
)  # fmt: skip
def test_exceptions_are_classified(error: BaseException, fault: Fault) -> None:
    assert fault_of(error) is fault


def test_an_unknown_error_of_a_collective_is_a_lost_connection() -> None:
    scope: dict[str, Any] = {}
    text = "def all_reduce():\n    raise RuntimeError('something new')\n"
    exec(compile(text, "/x/torch/distributed/distributed_c10d.py", "exec"), scope)
    with pytest.raises(RuntimeError) as caught:
        scope["all_reduce"]()
    assert fault_of(caught.value) is Fault.PEER


def test_a_full_disk_is_found_among_the_causes() -> None:
    error = RuntimeError("could not write")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert fault_of(error) is Fault.STORAGE


@pytest.mark.parametrize("fault", [Fault.OWN, Fault.MEMORY])
def test_errors_of_the_run_itself_are_not_retried(fault: Fault) -> None:
    assert next_attempt_time(_row(fault), retries=3) is None


@pytest.mark.parametrize("fault", [Fault.PEER, Fault.HUNG, Fault.DIED])
def test_retries_in_a_row_are_limited(fault: Fault) -> None:
    assert next_attempt_time(_row(*[fault] * 3), retries=3) == 100.0
    assert next_attempt_time(_row(*[fault] * 4), retries=3) is None
    assert next_attempt_time(_row(fault), retries=0) is None


def test_a_run_that_makes_progress_is_never_abandoned() -> None:
    steps = tuple(range(0, 200, 10))
    assert next_attempt_time(_row(*[Fault.DIED] * 20, steps=steps), retries=1) == 100.0
    assert next_attempt_time(_row(*[Fault.DIED] * 3, steps=(0, 10, 10)), retries=1) is None
    assert next_attempt_time(_row(*[Fault.DIED] * 3, steps=(0, 0, 10)), retries=1) == 100.0


def test_a_repeated_non_finite_loss_is_not_retried() -> None:
    assert next_attempt_time(_row(Fault.NOT_FINITE), retries=3) == 100.0
    assert next_attempt_time(_row(Fault.NOT_FINITE, Fault.NOT_FINITE), retries=3) is None
    assert next_attempt_time(_row(Fault.NOT_FINITE, Fault.DIED), retries=3) == 100.0
    assert (
        next_attempt_time(_row(Fault.NOT_FINITE, Fault.NOT_FINITE, steps=(5, 50)), retries=3)
        == 100.0
    )


def test_storage_failures_wait_longer_each_time() -> None:
    waits = [
        next_attempt_time(_row(*[Fault.STORAGE] * number), retries=9) for number in (1, 2, 3, 9)
    ]
    assert waits == [115.0, 160.0, 340.0, 700.0]


def test_a_new_command_counts_from_zero() -> None:
    row = _row(*[Fault.DIED] * 4)
    row[-1] = dataclasses.replace(row[-1], final=True)
    assert next_attempt_time(row, retries=3) is None
    assert next_attempt_time([*row, *_row(Fault.DIED)], retries=3) == 100.0


def test_bad_nodes() -> None:
    histories = [
        _row(Fault.DIED, Fault.OWN, node="good"), _row(Fault.DIED, node="bad"),
        _row(Fault.HUNG, node="bad"), _row(*[Fault.STORAGE] * 5, node="disk"),
    ]  # fmt: skip
    assert find_bad_nodes(histories) == ["bad"]
    many = [_row(*[Fault.DIED] * (2 + n), node=f"n{n}") for n in range(9)]
    assert find_bad_nodes(many) == ["n5", "n6", "n7", "n8"]


def test_the_node_common_to_all_failures_is_excluded() -> None:
    pairs = [_row(Fault.PEER, node=node) for node in ("n1,bad", "bad,n2", "n3,bad")]
    assert find_bad_nodes(pairs) == ["bad"]
    same = [_row(Fault.HUNG, Fault.PEER, node="n1,n2")]
    assert find_bad_nodes(same) == ["n1", "n2"]


def test_the_status_lists_all_failures(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    (tmp_path / "checkpoints" / "step=00000040").mkdir(parents=True)
    for number in range(3):
        with timed_attempt(folder) as status:
            status.fail(folder.failure(Fault.DIED, f"attempt {number}"))
        assert should_retry(folder, retries=2) == (number < 2)
        assert can_start(folder, retries=2)
        reset_attempt(folder)
    status = folder.read_status()
    assert [failure.final for failure in status.failures] == [False, False, True]
    assert {failure.step for failure in status.failures} == {40}
    assert status.failures[0].node
    assert (status.state, status.attempts) == (State.WAITING, 3)


def test_an_evaluation_that_makes_progress_is_never_abandoned(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    assert folder.safe_step() == -1
    folder.checkpoints.mkdir()
    for number in range(6):
        with timed_attempt(folder) as status:
            with (folder.checkpoints / PARTIAL_RESULTS).open("a") as file:
                file.write("{}\n")
            status.fail(folder.failure(Fault.DIED, "killed"))
        assert should_retry(folder, retries=1), number
    assert [failure.step for failure in folder.read_status().failures] == [1, 2, 3, 4, 5, 6]


def test_a_storage_failure_delays_the_next_attempt(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    with timed_attempt(folder) as status:
        status.fail(folder.failure(Fault.STORAGE, "full"))
    assert should_retry(folder, retries=3)
    assert not can_start(folder, retries=3)


def _watched(limit_s: float) -> tuple[Watchdog, list[Any], threading.Event]:
    calls: list[Any] = []
    left = threading.Event()

    def leave(code: int) -> None:
        calls.append(code)
        left.set()

    return Watchdog(limit_s, report=calls.append, exit_process=leave), calls, left


def test_the_watchdog_ends_a_hanging_process(capfd: pytest.CaptureFixture[str]) -> None:
    dog, calls, left = _watched(0.3)
    trainer: Any = SimpleNamespace(global_step=7, world_size=2)
    dog.on_train_start(trainer)
    for _ in range(5):
        time.sleep(0.1)
        dog.on_train_batch_end(trainer)
    assert calls == []
    assert left.wait(5)
    assert calls == ["hung: no step after step 7 for 0 s", EXIT_HUNG]
    assert "test_the_watchdog_ends_a_hanging_process" in capfd.readouterr().err, (
        "the stack of every thread"
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_watchdog_after_an_error(world_size: int) -> None:
    """A single process exits; several may block each other while the group is destroyed."""
    dog, calls, left = _watched(0.2)
    trainer: Any = SimpleNamespace(global_step=7, world_size=world_size)
    dog.on_train_start(trainer)
    dog.on_exception(trainer)
    assert left.wait(1.0) == (world_size > 1)
    assert bool(calls) == (world_size > 1)


def test_the_watchdog_stops_after_training() -> None:
    dog, calls, left = _watched(0.2)
    trainer: Any = SimpleNamespace(global_step=7, world_size=2)
    dog.on_train_start(trainer)
    dog.on_train_end(trainer)
    assert not left.wait(0.6)
    assert calls == []
