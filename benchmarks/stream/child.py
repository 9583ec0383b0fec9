"""One measurement of `stream` in a process of its own: a job as JSON in, one JSON line out."""

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
    """Run the job; whatever libraries print goes to the error stream."""
    job = Job.from_json(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):
        side = _side(job.side)
        if job.world_size == 1:
            side.clean()
        answer = _TASKS[job.task](side, job)
    print(json.dumps(answer), flush=True)
    # Without this, helper threads of some libraries keep a finished process alive.
    os._exit(0)


def _side(name: str) -> Side:
    """Import only what this environment has."""
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
    """Convert or index the shards, and tell the versions."""
    started = time.perf_counter()
    side.prepare(job.folder)
    packages = (*side.packages, "torch", "numpy", "pillow")
    versions = {name: importlib.metadata.version(name) for name in packages}
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "versions": {"python": platform.python_version(), **versions}}


def speed(side: Side, job: Job) -> dict[str, Any]:
    """First batch, throughput with and without the decode, seek: one round of one side.

    The amounts are: samples to warm up with, samples to time, the step in the middle.
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
    # Where only saved states can be had, what was saved here is as good as the middle.
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
    """Samples per CPU second (all threads of the process) and per second."""
    _take(batches, warm_up)
    cpu, wall = time.process_time(), time.perf_counter()
    taken = _take(batches, num_samples)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"per_cpu_second": taken / cpu, "per_second": taken / wall}


def memory(side: Side, job: Job) -> dict[str, Any]:
    """Memory of one worker process after each number of samples."""
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
    """Log the keys of every step, save at one, die at another.

    The amounts are: steps to take, step after which to save the state (-1: never), step after
    which to be killed (-1: never).
    """
    num_steps, save_after, kill_after = job.amounts
    state = None
    if job.state is not None:
        path = job.state / f"{job.rank}.pkl"
        # Where there are more ranks than before, the new ones have nothing but rank 0's.
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
    """Remove what killed processes left, before several ranks start: `main` does."""
    del side, job
    return {}


def synthetic(side: Side, job: Job) -> dict[str, Any]:
    """Our order at 3 M samples, without any shard."""
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
