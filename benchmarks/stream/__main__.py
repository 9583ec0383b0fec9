"""Compare the mixture stream with plain webdataset, MosaicML Streaming and Megatron-Energon.

All sides read the same images and records (the embedded data, repeated into larger shards; MosaicML
converts them to its own format) in the same mixture of three sources and decode them in the same
way. They are measured alternately in separate processes. A library whose dependencies conflict with
ours runs on another interpreter. `--sides` selects the sides to run.

    MOSAIC=mosaicml-streaming=/venvs/mosaic/bin/python
    ENERGON=megatron-energon=/venvs/energon/bin/python
    python -m benchmarks.stream --peer-python $MOSAIC --peer-python $ENERGON
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.stream.common import GLOBAL_BATCH, SAMPLES, Job, drop_from_page_cache
from benchmarks.stream.report import as_markdown

REPOSITORY = Path(__file__).parents[2]
OURS, WHOLE_STEPS = "ours", "ours, whole steps"
SIDES = (OURS, "webdataset", "mosaicml-streaming", "megatron-energon", WHOLE_STEPS)

PARTS = ("speed", "memory", "resume", "scale")
WARM_UP = 1024
MEMORY_AT = (10_000, 30_000)
MIDDLE_STEP = sum(SAMPLES.values()) // GLOBAL_BATCH // 2
NUM_STEPS, SAVE_AFTER, KILL_AFTER = 30, 12, 17
TOPOLOGY, OTHER_TOPOLOGY = (2, 2), (1, 3)
"""Ranks and workers per rank of the killed run, and another topology to resume on."""
SYNTHETIC_POSITION, SYNTHETIC_LOCATED = 10_000_000, 1_000_000
TIMEOUT_S = 900.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Folder, interpreters and settings of the benchmark."""

    folder: Path
    pythons: dict[str, str]
    """Path of the Python interpreter of each side."""
    pixels: int
    memory_at: tuple[int, ...] = MEMORY_AT
    """Numbers of samples after which the memory of a worker is read: first and last."""

    def job(self, side: str, task: str, **changes: Any) -> Job:
        """Return a job on the data of this benchmark."""
        return Job(side=side, task=task, folder=self.folder, **changes)


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2048, help="timed samples per round")
    parser.add_argument("--pixels", type=int, default=192, help="side length of the resized images")
    parser.add_argument("--memory-at", nargs=2, type=int, default=MEMORY_AT, metavar="SAMPLES")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, default=None, help="keep the shards in this folder")
    parser.add_argument(
        "--json", type=Path, default=None, help="also write the figures to this file"
    )
    options = parser.parse_args()
    pythons = dict.fromkeys(SIDES, sys.executable)
    for pair in options.peer_python:
        name, _, path = pair.partition("=")
        if name not in SIDES or not Path(path).is_file():
            parser.error(f"--peer-python {pair}: expected NAME=PATH, NAME of {', '.join(SIDES)}")
        pythons[name] = path
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(
            folder=folder.resolve(),
            pythons=pythons,
            pixels=options.pixels,
            memory_at=tuple(options.memory_at),
        )
        amounts = {"rounds": options.rounds, "samples": options.samples}
        numbers = measure(bench, options.sides, options.parts, **amounts)
    print(as_markdown(numbers, ours=OURS, not_compared=(WHOLE_STEPS,)))
    if options.json is not None:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


def measure(
    bench: Bench, sides: Sequence[str], parts: Sequence[str], *, rounds: int, samples: int
) -> dict[str, dict[str, Any]]:
    """Return all figures by side."""
    numbers: dict[str, dict[str, Any]] = {side: prepare(bench, side) for side in sides}
    for number in range(rounds if "speed" in parts else 0):
        # Another side starts in every round.
        for side in (*sides[number % len(sides) :], *sides[: number % len(sides)]):
            drop_from_page_cache(bench.folder)
            amounts = (WARM_UP, samples, MIDDLE_STEP)
            job = bench.job(side, "speed", decode_pixels=bench.pixels, amounts=amounts)
            for name, found in run(bench, job).items():
                numbers[side].setdefault(name, []).append(found)
    for side in sides:
        if "memory" in parts:
            job = bench.job(side, "memory", num_workers=1, amounts=bench.memory_at)
            numbers[side]["memory"] = run(bench, job)
        # Training resumes whole steps, so the sample path alone is not tested.
        if "resume" in parts and side != OURS:
            numbers[side]["resume"] = resume(bench, side)
    if "scale" in parts and OURS in sides:
        amounts = (SYNTHETIC_POSITION, SYNTHETIC_LOCATED)
        numbers[OURS]["synthetic"] = run(bench, bench.job(OURS, "synthetic", amounts=amounts))
    return numbers


def prepare(bench: Bench, side: str) -> dict[str, Any]:
    """Write shards, indexes and conversions unless the folder already has them."""
    from benchmarks.stream.ours import write_sources

    shards = bench.folder / "shards.done"
    if not shards.exists():
        write_sources(bench.folder)
        shards.touch()
    done = bench.folder / f"{side}.prepared.json"
    if not done.exists():
        done.write_text(json.dumps(run(bench, bench.job(side, "prepare"))))
    return {"prepare": json.loads(done.read_text())}


# --- processes ---


def run(bench: Bench, job: Job) -> dict[str, Any]:
    """Run one job alone and return its answer."""
    job = dataclasses.replace(job, started=time.time())
    (answer,) = collect([start(bench, job, port=_free_port())])
    if answer is None:
        raise RuntimeError(f"{job.side}: task '{job.task}' was killed unexpectedly")
    return answer


def start(bench: Bench, job: Job, *, port: int) -> subprocess.Popen[str]:
    """Start a job in its own session, so that its workers end with it."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        # Every side may cache compiled bytecode.
        "PYTHONDONTWRITEBYTECODE": "",
        "TOKENIZERS_PARALLELISM": "false",
        "RANK": str(job.rank),
        "LOCAL_RANK": str(job.rank),
        "WORLD_SIZE": str(job.world_size),
        "LOCAL_WORLD_SIZE": str(job.world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with (bench.folder / "errors.log").open("a") as errors:
        return subprocess.Popen(
            [bench.pythons[job.side], "-m", "benchmarks.stream.child", job.to_json()],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )


def collect(processes: Sequence[subprocess.Popen[str]]) -> list[dict[str, Any] | None]:
    """Return the results of processes; None for a process that was killed on purpose.

    Raises:
        RuntimeError: If a process failed.
    """
    answers: list[dict[str, Any] | None] = []
    try:
        for process in processes:
            output, _ = process.communicate(timeout=TIMEOUT_S)
            if process.returncode == -signal.SIGKILL:
                answers.append(None)
            elif process.returncode == 0:
                answers.append(json.loads(output.splitlines()[-1]))
            else:
                raise RuntimeError(f"{process.args} failed with {process.returncode}")
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return answers


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


# --- resume ---


def resume(bench: Bench, side: str) -> dict[str, Any]:
    """Kill two ranks with two workers each, resume on two topologies and compare.

    The steps before the saved state and those after resuming are compared together with the steps
    of an uninterrupted run.
    """
    whole, _ = run_ranks(bench, side, TOPOLOGY, (NUM_STEPS, -1, -1))
    killed, _ = run_ranks(bench, side, TOPOLOGY, (NUM_STEPS, SAVE_AFTER, KILL_AFTER))
    states = bench.folder / "states"
    shutil.rmtree(states, ignore_errors=True)
    shutil.copytree(bench.folder / "runs", states)
    result: dict[str, Any] = {"starts_alike": killed[:SAVE_AFTER] == whole[:SAVE_AFTER]}
    for topology in (TOPOLOGY, OTHER_TOPOLOGY):
        steps = NUM_STEPS - SAVE_AFTER
        rest, refused = run_ranks(bench, side, topology, (steps, -1, -1), states)
        name = f"{topology[0]} x {topology[1]}"
        result[name] = (
            {"refused": refused} if refused else compare(whole, killed[:SAVE_AFTER] + rest)
        )
    return result


def run_ranks(
    bench: Bench,
    side: str,
    topology: tuple[int, int],
    amounts: tuple[int, int, int],
    states: Path | None = None,
) -> tuple[list[list[str]], str]:
    """Return the sorted keys of every global batch and the reason if a side refused to resume."""
    runs = bench.folder / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir()
    run(bench, bench.job(side, "clean"))
    world_size, num_workers = topology
    port = _free_port()
    processes = [
        start(
            bench,
            bench.job(
                side,
                "consume",
                rank=rank,
                world_size=world_size,
                num_workers=num_workers,
                state=states,
                amounts=amounts,
            ),
            port=port,
        )
        for rank in range(world_size)
    ]
    refused = [answer["refused"] for answer in collect(processes) if answer and "refused" in answer]
    if refused:
        return [], refused[0]
    logs = [(runs / f"{rank}.jsonl").read_text().splitlines() for rank in range(world_size)]
    return [
        sorted(key for line in lines for key in json.loads(line))
        for lines in zip(*logs, strict=False)
    ], ""


def compare(whole: list[list[str]], resumed: list[list[str]]) -> dict[str, Any]:
    """Return how many samples a resumed run repeated and lost, and if its batches are equal."""
    expected = Counter(key for batch in whole for key in batch)
    got = Counter(key for batch in resumed for key in batch)
    return {
        "repeated": (got - expected).total(),
        "lost": (expected - got).total(),
        "same_batches": whole == resumed,
    }


if __name__ == "__main__":
    main()
