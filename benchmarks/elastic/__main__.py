"""Kill real data loaders at random and resume them on other topologies.

A run of 48 steps is killed (SIGKILL to all processes) three times at random moments. Each attempt
resumes from the last checkpoint with another number of ranks and loader workers. The samples that
all attempts consumed are compared with an uninterrupted run: every step, including repeated ones,
must have the same global batch, and no sample may be lost or repeated within an epoch. A pair is
one kill: the killed topology and the step.

    python -m benchmarks.elastic --pairs 200
    python -m benchmarks.elastic --pairs 60 --remote
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

from rich.console import Console

from benchmarks.elastic import check
from benchmarks.elastic.check import Attempt, Ref
from benchmarks.elastic.remote import remote_world
from benchmarks.elastic.world import NUM_STEPS, TOPOLOGIES, Job, Topology, write_world

KILLS_PER_RUN = 3
_LAST_KILL = NUM_STEPS - 6
_HOLD_AFTER = 3
"""Ranks wait this many steps after the chosen one, so that a late kill still reaches them."""
_TIMEOUT_S = 120.0
_POLL_S = 0.001
_WITHIN_STEP_S, _WITHIN_START_S, _STRAGGLE_S = 0.02, 0.5, 0.02
_NUM_ORDERS = 4
"""Number of order seeds, used in turn; each needs one uninterrupted reference run."""
_ONE = Topology(world_size=1, num_workers=0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One kill and the attempt that followed it."""

    run: int
    topology: str
    continued_on: str
    num_consumed: int
    """Number of steps that rank 0 had consumed at the time of the kill."""
    resumed_at: int
    """First step of the next attempt, which is the step of the last checkpoint."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of one run and its kills."""

    pairs: tuple[Pair, ...]
    attempts: tuple[Attempt, ...]
    differences: tuple[str, ...]
    """Differences from the uninterrupted run; expected to be empty."""
    num_compared: int
    """Number of compared steps; repeated steps count each time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run all pairs and report the outcome; return 1 if any batch differs."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.elastic",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--pairs", type=int, default=12, help="number of kills, three per run (default: 12)")
    add("--seed", type=int, default=0, help="seed of topologies and kill times (default: 0)")
    add("--out", type=Path, help="folder for records and outcomes.json (default: discard them)")
    add("--remote", action="store_true", help="read shards over HTTP through a small cache")
    arguments = parser.parse_args(argv)
    if arguments.pairs < 1:
        parser.error(f"--pairs must be at least 1, got {arguments.pairs}")
    if arguments.out and arguments.out.is_dir() and any(arguments.out.iterdir()):
        parser.error(f"--out {arguments.out} is not empty; choose a new folder")
    console = Console(width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.out or Path(scratch)).resolve()
        world = write_world(folder / "world")
        served = remote_world(world, folder / "remote") if arguments.remote else None
        with served or contextlib.nullcontext(world) as used:
            return run_all(used, folder, arguments.pairs, arguments.seed, console)


def run_all(world: Path, folder: Path, num_pairs: int, seed: int, console: Console) -> int:
    """Run everything sequentially and return the exit code."""
    begin = time.monotonic()
    # The fork server imports torch once; every rank is forked from it.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["benchmarks.elastic.rank"])
    references: dict[int, dict[int, list[Ref]]] = {}
    topologies = endless_topologies(random.Random(f"topologies {seed}"))
    outcomes: list[Outcome] = []
    for number in range(-(-num_pairs // KILLS_PER_RUN)):
        order = number % _NUM_ORDERS
        if order not in references:
            references[order] = undisturbed(Job(
                world=world, folder=folder / f"undisturbed-{order}", attempt=0, topology=_ONE,
                seed=order,
            ))  # fmt: skip
        first = Job(
            world=world, folder=folder / f"run-{number:04d}", attempt=0, topology=_ONE, seed=order
        )
        rng = random.Random(f"moments {seed} {number}")
        attempts, pairs = run_with_kills(first, topologies, rng, number)
        found, num_compared = check.differences(attempts, references[order])
        outcomes.append(Outcome(pairs=tuple(pairs), attempts=tuple(attempts),
                                differences=tuple(found), num_compared=num_compared))  # fmt: skip
        _print_run(console, outcomes[-1])
    faults = [fault for reference in references.values() for fault in check.epoch_faults(reference)]
    _save(folder / "outcomes.json", outcomes)
    return _print_summary(console, outcomes, faults, time.monotonic() - begin)


def endless_topologies(rng: random.Random) -> Iterator[Topology]:
    """Yield all topologies in random order repeatedly, never the same one twice in a row."""
    last: Topology | None = None
    while True:
        cycle = rng.sample(TOPOLOGIES, len(TOPOLOGIES))
        if cycle[0] == last:
            cycle.reverse()
        yield from cycle
        last = cycle[-1]


def undisturbed(job: Job) -> dict[int, list[Ref]]:
    """Run one process without kills and return the global batch of every step."""
    processes, barrier = _start(job)
    _wait_for_end(job, processes)
    del barrier
    return {step: check.global_batch(shares) for step, shares in check.read_steps(job).items()}


def run_with_kills(
    first: Job, topologies: Iterator[Topology], rng: random.Random, number: int
) -> tuple[list[Attempt], list[Pair]]:
    """Complete one run with kills on the way; the next topologies are the ones killed."""
    attempts: list[Attempt] = []
    pairs: list[Pair] = []
    killed = [next(topologies) for _ in range(KILLS_PER_RUN)]
    last = rng.choice([topology for topology in TOPOLOGIES if topology != killed[-1]])
    start = 0
    for attempt, topology in enumerate([*killed, last]):
        job = dataclasses.replace(first, attempt=attempt, topology=topology)
        if attempt == KILLS_PER_RUN:
            processes, _barrier = _start(job)
            _wait_for_end(job, processes)
            attempts.append(Attempt(job=job, start=start, stop=_committed(job)))
            break
        limit = _LAST_KILL * (attempt + 1) // KILLS_PER_RUN
        kill_step = rng.randint(start, max(start, limit))
        job = dataclasses.replace(job, hold_at=kill_step + _HOLD_AFTER)
        num_consumed = start + _run_and_kill(job, kill_step - start, rng)
        stop = _committed(job)
        attempts.append(Attempt(job=job, start=start, stop=stop))
        pairs.append(Pair(
            run=number, topology=str(topology), continued_on=str([*killed, last][attempt + 1]),
            num_consumed=num_consumed, resumed_at=stop,
        ))  # fmt: skip
        start = stop
    return attempts, pairs


def _run_and_kill(job: Job, num_steps: int, rng: random.Random) -> int:
    """Start an attempt and kill it shortly after it has consumed `num_steps` steps."""
    processes, _barrier = _start(job)
    deadline = time.monotonic() + _TIMEOUT_S
    while _num_consumed(job) < num_steps:
        if time.monotonic() > deadline or any(p.exitcode is not None for p in processes):
            _kill(processes)
            raise RuntimeError(f"attempt {job} ended before the kill; see {job.folder}/log.txt")
        time.sleep(_POLL_S)
    # An attempt with no steps to consume is killed during its start.
    time.sleep(rng.random() * (_WITHIN_STEP_S if num_steps else _WITHIN_START_S))
    rng.shuffle(processes)
    # Nodes do not fail at the same instant: sometimes the others survive for a moment.
    _kill(processes, pause_s=rng.choice((0.0, rng.random() * _STRAGGLE_S)))
    return _num_consumed(job)


def _start(job: Job) -> tuple[list[BaseProcess], Barrier]:
    """Start the ranks; the caller must keep the barrier alive until they end."""
    job.folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    barrier = context.Barrier(job.topology.world_size)
    processes: list[BaseProcess] = []
    for rank in range(job.topology.world_size):
        process = context.Process(target=_rank_main, args=(job, rank, barrier))
        process.start()
        processes.append(process)
    return processes, barrier


def _rank_main(job: Job, rank: int, barrier: Barrier) -> None:
    from benchmarks.elastic import rank as elastic_rank  # already imported by the fork server

    elastic_rank.run_rank(job, rank, barrier)


def _kill(processes: Sequence[BaseProcess], *, pause_s: float = 0.0) -> None:
    """Send SIGKILL to every rank and its loader workers."""
    for process in processes:
        pid = process.pid
        if pid is None:
            raise RuntimeError(f"{process} was never started")
        for send in (os.killpg, os.kill):  # a rank that has just started leads no group yet
            try:
                send(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(pause_s)
    for process in processes:
        process.join(_TIMEOUT_S)


def _wait_for_end(job: Job, processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.join(_TIMEOUT_S)
    codes = [process.exitcode for process in processes]
    if any(codes) or None in codes:
        _kill(processes)
        raise RuntimeError(f"{job} exited with codes {codes}; see {job.folder}/log.txt")


def _num_consumed(job: Job) -> int:
    record = job.record(0)
    return record.read_bytes().count(b"\n") if record.is_file() else 0


def _committed(job: Job) -> int:
    if not job.checkpoint.is_file():
        return 0
    step: int = json.loads(job.checkpoint.read_text())["step"]
    return step


def _save(path: Path, outcomes: Sequence[Outcome]) -> None:
    content = [dataclasses.asdict(outcome) for outcome in outcomes]
    path.write_text(json.dumps(content, default=str, indent=1))


def _print_run(console: Console, outcome: Outcome) -> None:
    kills = ", ".join(
        f"{pair.topology} at {pair.num_consumed} -> {pair.continued_on} from {pair.resumed_at}"
        for pair in outcome.pairs
    )
    verdict = "[green]exact[/]" if not outcome.differences else "[red]DIFFERENT[/]"
    console.print(f"run {outcome.pairs[0].run}: {kills}: {verdict}", highlight=False)
    for line in outcome.differences:
        console.print(f"  {line}", markup=False, highlight=False)


def _print_summary(
    console: Console, outcomes: Sequence[Outcome], faults: Sequence[str], seconds: float
) -> int:
    pairs = [pair for outcome in outcomes for pair in outcome.pairs]
    redone = sum(pair.num_consumed - pair.resumed_at for pair in pairs)
    num_different = sum(bool(outcome.differences) for outcome in outcomes)
    for fault in faults:
        console.print(f"[red]uninterrupted run: {fault}[/]")
    topologies = {pair.topology for pair in pairs}
    moves = {(pair.topology, pair.continued_on) for pair in pairs}
    console.print(
        f"{len(pairs)} kills on {len(topologies)} topologies ({len(moves)} different moves), "
        f"{len(outcomes)} runs of {NUM_STEPS} steps: {sum(o.num_compared for o in outcomes)} steps "
        f"compared, {redone} of them repeated, {num_different} runs differ, {seconds:.0f} s",
        highlight=False,
    )
    return 1 if faults or num_different else 0


if __name__ == "__main__":
    sys.exit(main())
