"""Kill the loaders anywhere and resume with other ranks and workers: equal global batches.

The command does the killing (`benchmarks.elastic`), in processes of its own: here its
verdict is read, and the judge itself is tried on records that somebody tampered with.
"""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.elastic.__main__ import endless_topologies
from benchmarks.elastic.check import (
    Attempt,
    Ref,
    differences,
    epoch_faults,
    global_batch,
    read_steps,
)
from benchmarks.elastic.world import (
    CHECKPOINT_EVERY_N_STEPS,
    NUM_STEPS,
    SAMPLES_PER_STEP,
    TOPOLOGIES,
    Job,
    Topology,
)
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow

NUM_PAIRS = len(TOPOLOGIES)
TIMEOUT_S = 240.0
Outcome = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the samples that each rank consumed."""
    out = tmp_path_factory.mktemp("elastic") / "out"
    arguments = ("--pairs", str(NUM_PAIRS), "--seed", "3", "--out", str(out))
    process = worlds.start(worlds.REPOSITORY, *arguments, module="benchmarks.elastic")
    code, output = worlds.finish(process, timeout_s=TIMEOUT_S)
    assert code == 0, output
    return out


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> list[Outcome]:
    found: list[Outcome] = json.loads((folder / "outcomes.json").read_text())
    return found


def test_killing_every_topology_changes_nothing(outcomes: list[Outcome]) -> None:
    pairs = [pair for outcome in outcomes for pair in outcome["pairs"]]
    assert sorted(pair["topology"] for pair in pairs) == sorted(map(str, TOPOLOGIES))
    assert all(pair["topology"] != pair["continued_on"] for pair in pairs)
    assert [outcome["differences"] for outcome in outcomes] == [[]] * len(outcomes)
    for outcome in outcomes:
        assert outcome["num_compared"] >= NUM_STEPS


def test_a_kill_loses_at_most_the_steps_since_the_checkpoint(outcomes: list[Outcome]) -> None:
    pairs = [pair for outcome in outcomes for pair in outcome["pairs"]]
    lost = [pair["num_consumed"] - pair["resumed_at"] for pair in pairs]
    # The maximum occurs if the kill comes between a step and its checkpoint.
    assert 0 <= min(lost) <= max(lost) <= CHECKPOINT_EVERY_N_STEPS
    assert any(pair["resumed_at"] > 0 for pair in pairs)


def test_remote_shards_change_nothing(tmp_path: Path) -> None:
    """Kills also hit downloads, because the cache is smaller than the data of a step."""
    arguments = ("--pairs", "6", "--seed", "4", "--remote", "--out", str(tmp_path / "out"))
    process = worlds.start(worlds.REPOSITORY, *arguments, module="benchmarks.elastic")
    code, output = worlds.finish(process, timeout_s=TIMEOUT_S)
    assert code == 0, output
    outcomes = json.loads((tmp_path / "out" / "outcomes.json").read_text())
    assert [outcome["differences"] for outcome in outcomes] == [[], []]
    assert list((tmp_path / "out" / "remote" / "cache").glob("?" * 64))


def attempts_of_first_run(folder: Path, outcomes: list[Outcome]) -> list[Attempt]:
    """Return the attempts of the first run."""
    attempts = []
    for raw in outcomes[0]["attempts"]:
        topology = Topology(**raw["job"]["topology"])
        paths = {"world": folder / "world", "folder": folder / "run-0000"}
        job = Job(**{**raw["job"], **paths, "topology": topology})
        attempts.append(Attempt(job=job, start=raw["start"], stop=raw["stop"]))
    return attempts


def reference_of(folder: Path) -> dict[int, list[Ref]]:
    job = Job(
        world=folder / "world",
        folder=folder / "undisturbed-0",
        attempt=0,
        topology=Topology(world_size=1, num_workers=0),
        seed=0,
    )
    return {step: global_batch(shares) for step, shares in read_steps(job).items()}


def _lose_a_sample(lines: list[dict[str, Any]]) -> None:
    next(filter(None, lines[0]["micro_batches"])).pop()


def _repeat_a_sample(lines: list[dict[str, Any]]) -> None:
    micro_batch = next(filter(None, lines[0]["micro_batches"]))
    micro_batch.append(micro_batch[0])


def _swap_two_steps(lines: list[dict[str, Any]]) -> None:
    first, second = lines[0], lines[1]
    first["step"], second["step"] = second["step"], first["step"]


def _lose_a_line(lines: list[dict[str, Any]]) -> None:
    del lines[1]


def _add_a_micro_batch(lines: list[dict[str, Any]]) -> None:
    lines[0]["micro_batches"].append([])


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_lose_a_sample, "lost"),
        (_repeat_a_sample, "got"),
        (_swap_two_steps, "lost"),
        (_lose_a_line, "committed, but consumed by"),
        (_add_a_micro_batch, "different numbers of micro-batches"),
    ],
)
def test_the_checker_detects_every_defect(
    tmp_path: Path,
    folder: Path,
    tamper: Callable[[list[dict[str, Any]]], None],
    message: str,
) -> None:
    """The run of two ranks is derived from the undisturbed one; rank 1 adds no samples."""
    reference = reference_of(folder)
    record = folder / "undisturbed-0" / "attempt-0-rank-0.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    job = Job(
        world=folder / "world",
        folder=tmp_path,
        attempt=0,
        topology=Topology(world_size=2, num_workers=0),
        seed=0,
    )
    empty = [
        {**line, "micro_batches": [[] for _ in line["micro_batches"]], "bad": []} for line in lines
    ]
    write_lines(job.record(0), lines)
    write_lines(job.record(1), empty)
    whole = [Attempt(job=job, start=0, stop=NUM_STEPS)]
    assert differences(whole, reference) == ([], NUM_STEPS)
    tamper(lines)
    write_lines(job.record(0), lines)
    found, _ = differences(whole, reference)
    assert any(message in line for line in found), found


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_checker_requires_every_step_once(folder: Path, outcomes: list[Outcome]) -> None:
    attempts, reference = attempts_of_first_run(folder, outcomes), reference_of(folder)
    assert differences(attempts, reference)[0] == []
    found, _ = differences(attempts[:-1], reference)
    assert any("the attempts count the steps" in line for line in found)


def test_the_undisturbed_run_reads_every_sample_once_per_epoch(folder: Path) -> None:
    reference = reference_of(folder)
    assert epoch_faults(reference) == []
    num_bad = sum(ref[3] == 0 for batch in reference.values() for ref in batch)
    assert num_bad >= 2, "the two broken samples were left out in the first epoch"
    assert {len(batch) for batch in reference.values()} == {sum(SAMPLES_PER_STEP.values())}
    step, batch = next(iter(reference.items()))
    position, *_ = batch[0]
    reference[step] = [(position, *batch[1][1:]), *batch[1:]]
    assert epoch_faults(reference)


def test_topologies_alternate() -> None:
    topologies = endless_topologies(random.Random("turns"))
    drawn = [next(topologies) for _ in range(20 * NUM_PAIRS)]
    assert all(one != other for one, other in itertools.pairwise(drawn))
    assert {drawn.count(topology) for topology in TOPOLOGIES} == {20}
