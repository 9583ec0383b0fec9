"""Compare the attempts of a killed run with the uninterrupted run.

The comparison only reads the records of the ranks, so tests can tamper with them and check that
the differences are found.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from benchmarks.elastic.world import NUM_STEPS, SAMPLES_PER_STEP, SIZES, Job, component_of

Ref: TypeAlias = tuple[int, str, str, int, int]
"""Position, source, key, tokens, loss tokens; a skipped sample has no tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Samples of one step that one rank consumed."""

    refs: tuple[Ref, ...]
    """Micro-batches; their order carries no meaning, because the packing plan distributes them."""
    num_micro_batches: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt with its first step and the step up to which its work counts."""

    job: Job
    start: int
    stop: int
    """Step of the checkpoint that it left; later steps are repeated by the next attempt."""


def read_steps(job: Job) -> dict[int, list[Share]]:
    """Return the shares of the ranks that reached each step of an attempt, by step."""
    steps: dict[int, list[Share]] = {}
    for rank in range(job.topology.world_size):
        path = job.record(rank)
        content = path.read_bytes() if path.is_file() else b""
        # Content after the last line break was truncated by the kill.
        for line in content.split(b"\n")[:-1]:
            raw = json.loads(line)
            good = [tuple(ref) for micro_batch in raw["micro_batches"] for ref in micro_batch]
            bad = [(*sample, 0, 0) for sample in raw["bad"]]
            share = Share(refs=(*good, *bad), num_micro_batches=len(raw["micro_batches"]))
            steps.setdefault(raw["step"], []).append(share)
    return steps


def global_batch(shares: Iterable[Share]) -> list[Ref]:
    """Return the samples of a step in order of position."""
    return sorted(ref for share in shares for ref in share.refs)


def differences(
    attempts: Sequence[Attempt], reference: dict[int, list[Ref]]
) -> tuple[list[str], int]:
    """Return the differences from the uninterrupted run and the number of compared steps."""
    found: list[str] = []
    counted: list[int] = []
    num_compared = 0
    for attempt in attempts:
        steps = read_steps(attempt.job)
        counted += range(attempt.start, attempt.stop)
        for step in sorted({*steps, *range(attempt.start, attempt.stop)}):
            shares = steps.get(step, [])
            is_complete = len(shares) == attempt.job.topology.world_size
            if step < attempt.stop or is_complete:
                num_compared += 1
            found += _compare(attempt, step, shares, reference[step])
    if counted != list(range(NUM_STEPS)):
        found.append(f"the attempts count the steps {counted}, expected 0..{NUM_STEPS - 1} once")
    return found, num_compared


def _compare(
    attempt: Attempt, step: int, shares: Sequence[Share], expected: list[Ref]
) -> list[str]:
    batch, ranks = global_batch(shares), attempt.job.topology.world_size
    where = f"attempt {attempt.job.attempt} ({attempt.job.topology}), step {step}"
    if len(shares) > ranks:
        return [f"{where}: consumed twice by a rank"]
    if len(shares) < ranks:
        if step < attempt.stop:
            return [f"{where}: committed, but consumed by {len(shares)} of {ranks} ranks"]
        # A step in flight at the kill: consumed samples must belong to it and occur once.
        unexpected = [ref for ref in batch if ref not in expected]
        twice = len(batch) - len(set(batch))
        fault = f"{where}: {len(unexpected)} unexpected samples, {twice} consumed twice"
        return [fault] if unexpected or twice else []
    if len({share.num_micro_batches for share in shares}) > 1:
        return [f"{where}: ranks have different numbers of micro-batches"]
    if batch != expected:
        lost = [ref for ref in expected if ref not in batch]
        return [f"{where}: lost {lost}, got {[ref for ref in batch if ref not in expected]}"]
    return []


def epoch_faults(reference: dict[int, list[Ref]]) -> list[str]:
    """Return positions or samples that the uninterrupted run loses or repeats in an epoch."""
    refs = [ref for step in sorted(reference) for ref in reference[step]]
    found = []
    num_samples = int(sum(SAMPLES_PER_STEP.values())) * NUM_STEPS
    if [ref[0] for ref in refs] != list(range(num_samples)):
        found.append(f"the positions are not 0..{num_samples - 1} in order")
    for name, size in SIZES.items():
        keys = [key for _, source, key, *_ in refs if component_of(source) == name]
        for start in range(0, len(keys), size):
            epoch = keys[start : start + size]
            if len(set(epoch)) < len(epoch):
                found.append(f"component '{name}' repeats a sample in epoch {start // size}")
    return found
