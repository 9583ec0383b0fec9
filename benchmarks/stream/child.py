"""Run one job of the stream benchmark, given as JSON, and print the result as a JSON line."""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import pickle
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.stream.common import (
    GLOBAL_BATCH,
    Item,
    Job,
    Seek,
    Side,
    memory_of,
)


def main() -> None:
    """Run the job with the output of libraries redirected to stderr."""
    job = Job.from_json(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):
        side = _side(job.side)
        if job.world_size == 1:
            side.clean()
        answer = _TASKS[job.task](side, job)
    print(json.dumps(answer), flush=True)
    # Helper threads of some libraries would keep a finished process alive.
    os._exit(0)


def _side(name: str) -> Side:
    """Import a side; only the libraries of this environment are available."""
    if name == "webdataset":
        from benchmarks.stream.webdataset import PlainWebDataset

        return PlainWebDataset()
    if name == "mosaicml-streaming":
        from benchmarks.stream.mosaic import MosaicStreaming

        return MosaicStreaming()
    if name == "megatron-energon":
        from benchmarks.stream.energon import Energon

        return Energon()
    from benchmarks.stream.ours import Ours, OurSteps

    return OurSteps() if name == "ours, whole steps" else Ours()


def prepare(side: Side, job: Job) -> dict[str, Any]:
    """Convert or index the shards and return the versions."""
    started = time.perf_counter()
    side.prepare(job.folder)
    packages = (*side.packages, "torch", "numpy", "pillow")
    versions = {name: importlib.metadata.version(name) for name in packages}
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "versions": {"python": platform.python_version(), **versions}}


def speed(side: Side, job: Job) -> dict[str, Any]:
    """Measure the first batch, throughput with and without decoding, and seeking.

    The amounts are: warm-up samples, timed samples, the step to seek to.
    """
    warm_up, num_samples, middle = job.amounts
    opened = time.perf_counter()
    batches = iter(side.open(job, None))
    next(batches)
    cold = {"from_open": time.perf_counter() - opened, "from_launch": time.time() - job.started}
    decoded = _throughput(batches, warm_up, num_samples)
    del batches
    side.clean()
    encoded_job = dataclasses.replace(job, decode_pixels=0)
    feed = side.open(encoded_job, None)
    encoded = _throughput(iter(feed), warm_up, num_samples)
    # Sides that only have saved states resume at the state of this run.
    state = feed.state() if side.seek is Seek.SAVED else side.state_at(job, middle)
    del feed
    side.clean()
    started = time.perf_counter()
    batches = iter(side.open(encoded_job, state))
    if side.seek is Seek.REPLAY:
        _take(batches, middle * GLOBAL_BATCH)
    next(batches)
    seek = {"seconds": time.perf_counter() - started}
    return {"cold": cold, "decoded": decoded, "encoded": encoded, "seek": seek}


def _throughput(batches: Iterator[list[Item]], warm_up: int, num_samples: int) -> dict[str, float]:
    """Return samples per CPU second (all threads) and samples per second."""
    _take(batches, warm_up)
    cpu, wall = time.process_time(), time.perf_counter()
    taken = _take(batches, num_samples)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"per_cpu_second": taken / cpu, "per_second": taken / wall}


def memory(side: Side, job: Job) -> dict[str, Any]:
    """Return the memory of one worker process after each number of samples."""
    batches, taken = iter(side.open(job, None)), 0
    uss, pss = [], []
    for amount in job.amounts:
        taken += _take(batches, amount - taken)
        (worker,) = multiprocessing.active_children()
        own, proportional = memory_of(worker.pid or 0)
        uss.append(own)
        pss.append(proportional)
    return {"uss": uss, "pss": pss}


def consume(side: Side, job: Job) -> dict[str, str]:
    """Log the keys of every step, save the state at one step and get killed at another.

    The amounts are: number of steps, step after which the state is saved (-1: never), step after
    which the process is killed (-1: never).
    """
    num_steps, save_after, kill_after = job.amounts
    state = None
    if job.state is not None:
        path = job.state / f"{job.rank}.pkl"
        # With more ranks than before, the additional ranks load the state of rank 0.
        path = path if path.is_file() else job.state / "0.pkl"
        state = pickle.loads(path.read_bytes())
    try:
        feed = side.open(job, state)
        batches = iter(feed)
        first = next(batches)
    except Exception as error:  # noqa: BLE001 - a refusal is a result of the benchmark
        return {"refused": f"{type(error).__name__}: {error}"[:300]}
    log = job.folder / "runs" / f"{job.rank}.jsonl"
    for step, batch in enumerate(itertools.chain([first], batches)):
        _log_step(log, batch)
        if step + 1 == save_after:
            (job.folder / "runs" / f"{job.rank}.pkl").write_bytes(pickle.dumps(feed.state()))
        if step + 1 == kill_after:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        if step + 1 == num_steps:
            break
    return {}


def _log_step(log: Path, batch: list[Item]) -> None:
    with log.open("a") as file:
        file.write(json.dumps([item.key for item in batch]) + "\n")


def clean(side: Side, job: Job) -> dict[str, str]:
    """Do nothing: `main` removes leftovers of killed processes before every task."""
    del side, job
    return {}


def synthetic(side: Side, job: Job) -> dict[str, Any]:
    """Measure our sample order at 3 M samples without shards."""
    del side
    from benchmarks.stream.synthetic import measure

    return measure(*job.amounts)


def _take(batches: Iterator[list[Item]], num_samples: int) -> int:
    taken = 0
    while taken < num_samples:
        taken += len(next(batches))
    return taken


_TASKS: dict[str, Callable[[Side, Job], dict[str, Any]]] = {
    task.__name__: task for task in (prepare, speed, memory, consume, clean, synthetic)
}


if __name__ == "__main__":
    main()
