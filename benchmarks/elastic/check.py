"""Whether the attempts at a run, put together, are the run that nobody disturbed.

Works on the ranks' records alone, so a test can tamper with them and see it found.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from benchmarks.elastic.world import NUM_STEPS, SAMPLES_PER_STEP, SIZES, Job, component_of

Ref: TypeAlias = tuple[int, str, str, int, int]
"""Position, source, key, tokens, target tokens; no tokens in a sample that was left out."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one rank consumed of one step."""

    refs: tuple[Ref, ...]
    """In no order that means anything: who packs what is the plan's business."""
    num_micro_batches: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt: from which step on, and up to which its steps count."""

    job: Job
    start: int
    stop: int
    """The checkpoint that it left; what it consumed beyond is done again."""


def read_steps(job: Job) -> dict[int, list[Share]]:
    """Step -> what the ranks of an attempt consumed of it (those that got so far)."""
    steps: dict[int, list[Share]] = {}
    for rank in range(job.topology.world_size):
        path = job.record(rank)
        content = path.read_bytes() if path.is_file() else b""
        # What follows the last line break was cut by the kill.
        for line in content.split(b"\n")[:-1]:
            raw = json.loads(line)
            good = [tuple(ref) for micro_batch in raw["micro_batches"] for ref in micro_batch]
            bad = [(*sample, 0, 0) for sample in raw["bad"]]
            share = Share(refs=(*good, *bad), num_micro_batches=len(raw["micro_batches"]))
            steps.setdefault(raw["step"], []).append(share)
    return steps


def global_batch(shares: Iterable[Share]) -> list[Ref]:
    """The samples of a step in the order of their positions."""
    return sorted(ref for share in shares for ref in share.refs)


def differences(
    attempts: Sequence[Attempt], reference: dict[int, list[Ref]]
) -> tuple[list[str], int]:
    """What is not as in the undisturbed run, one line each, and how many steps were compared."""
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
        # A step in flight at the kill: what was consumed of it must belong to it, once.
        strangers = [ref for ref in batch if ref not in expected]
        twice = len(batch) - len(set(batch))
        return [f"{where}: {len(strangers)} strangers, {twice} twice"] if strangers or twice else []
    if len({share.num_micro_batches for share in shares}) > 1:
        return [f"{where}: ranks have different numbers of micro-batches"]
    if batch != expected:
        lost = [ref for ref in expected if ref not in batch]
        return [f"{where}: lost {lost}, got {[ref for ref in batch if ref not in expected]}"]
    return []


def epoch_faults(reference: dict[int, list[Ref]]) -> list[str]:
    """Positions or samples that the undisturbed run itself loses or repeats within an epoch."""
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
