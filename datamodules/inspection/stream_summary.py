"""What a stretch of a training stream holds, read off its plan: no image, no model, no training.

Kept apart from the command that prints it, so that numbers can be checked without a terminal.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from datamodules.batches.packing import density, plan_step
from datamodules.batches.step_dataset import PlannedSample, StepData, global_batch
from datamodules.mixture.config import ShareOf
from datamodules.mixture.stream import MixtureStream

_COUNT_CHUNK_STEPS = 4096
_MOST_PLANNED_STEPS = 100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlacedSample:
    """One sample of a step, and where the plan puts it."""

    planned: PlannedSample
    key: str
    num_loss_tokens: int
    rank: int = 0
    micro_batch: int = 0
    row: int = 0
    reason: str = ""
    """Why it is left out; then it has no place."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How tightly some steps are packed."""

    num_steps: int
    """Steps that were planned to find out."""
    micro_batches_per_step: float
    """On each rank."""
    density: float
    """Share of positions that are not padding."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceCount:
    """What one source gives to some steps."""

    language: str
    expected: float
    """Samples that the configuration asks for."""
    num_samples: int
    """Samples that have their turn, those that are left out too."""
    num_left_out: int
    """Samples that are known to be bad."""
    num_tokens: int
    num_loss_tokens: int
    """Target tokens."""


def place_samples(data: StepData, step: int, *, world_size: int) -> list[PlacedSample]:
    """The samples of a step in the order of their positions."""
    batch = global_batch(data, step)
    lengths = _lengths(batch)
    plan = plan_step(lengths, world_size, data.micro_batch_tokens, data.row_tokens)
    places = {
        i: (rank, number, r)
        for rank, micro_batches in enumerate(plan)
        for number, rows in enumerate(micro_batches)
        for r, row in enumerate(rows)
        for i in row
    }
    return [_place_sample(data, planned, places.get(i)) for i, planned in enumerate(batch)]


def packing(data: StepData, steps: range, *, world_size: int) -> Packing:
    """How the steps are packed; of a long stretch, evenly chosen steps are planned."""
    stride = max(1, -(-len(steps) // _MOST_PLANNED_STEPS))
    chosen = steps[::stride]
    num_micro_batches, tokens, positions = 0, 0.0, 0.0
    for step in chosen:
        lengths = _lengths(global_batch(data, step))
        plan = plan_step(lengths, world_size, data.micro_batch_tokens, data.row_tokens)
        num_micro_batches += len(plan[0])
        num_tokens = int(lengths.sum())
        tokens += num_tokens
        positions += num_tokens / density([micro for rank in plan for micro in rank], lengths)
    return Packing(
        num_steps=len(chosen),
        micro_batches_per_step=num_micro_batches / len(chosen),
        density=tokens / positions if positions else 1.0,
    )


def count_sources(data: StepData, steps: range) -> dict[str, SourceCount]:
    """What every source gives to some steps, beside what was asked for."""
    counts: dict[str, SourceCount] = {}
    num_slots = data.stream.samples_per_step
    for chunk in _chunks(steps):
        positions = np.arange(chunk.start * num_slots, chunk.stop * num_slots, dtype=np.int64)
        located = data.stream.locate(positions)
        for c, component in enumerate(data.stream.components):
            for source in component.used_sources():
                is_target = source is component.target
                here = (located.component == c) & (located.is_target == is_target)
                samples, lengths = located.sample[here], data.lengths[source.name]
                num_tokens = lengths.num_tokens[samples]
                before = counts.get(source.name, _nothing(source.language))
                counts[source.name] = SourceCount(
                    language=source.language,
                    expected=before.expected + expected(data.stream, c, chunk, is_target=is_target),
                    num_samples=before.num_samples + int(here.sum()),
                    num_left_out=before.num_left_out + int((num_tokens == 0).sum()),
                    num_tokens=before.num_tokens + int(num_tokens.sum()),
                    num_loss_tokens=before.num_loss_tokens
                    + int(lengths.num_loss_tokens[samples].sum()),
                )
    return counts


def expected(stream: MixtureStream, component: int, steps: range, *, is_target: bool) -> float:
    """Samples that the configuration asks of one side of a component in some steps."""
    part, starts = stream.components[component], stream.schedule.start_steps
    total = 0.0
    for phase, (start, stop) in enumerate(itertools.pairwise((*starts, max(*starts, steps.stop)))):
        num_steps = max(0, min(stop, steps.stop) - max(start, steps.start))
        samples, share = part.config.at(start)
        if part.config.share_of is ShareOf.LOSS_TOKENS:
            share = part.num_target_samples[phase] / len(part)
        total += num_steps * samples * (share if is_target else 1.0 - share)
    return total


def by_language(counts: dict[str, SourceCount]) -> dict[str, SourceCount]:
    """The same, summed over the sources of each language."""
    sums: dict[str, SourceCount] = {}
    for count in counts.values():
        before = sums.get(count.language, _nothing(count.language))
        sums[count.language] = SourceCount(
            language=count.language,
            expected=before.expected + count.expected,
            num_samples=before.num_samples + count.num_samples,
            num_left_out=before.num_left_out + count.num_left_out,
            num_tokens=before.num_tokens + count.num_tokens,
            num_loss_tokens=before.num_loss_tokens + count.num_loss_tokens,
        )
    return sums


def _place_sample(
    data: StepData, planned: PlannedSample, place: tuple[int, int, int] | None
) -> PlacedSample:
    lengths, key = data.lengths[planned.source.name], planned.source.key(planned.index)
    if place is None:
        reason = str(lengths.faults[planned.index])
        return PlacedSample(planned=planned, key=key, num_loss_tokens=0, reason=reason)
    rank, micro_batch, row = place
    return PlacedSample(
        planned=planned,
        key=key,
        num_loss_tokens=int(lengths.num_loss_tokens[planned.index]),
        rank=rank,
        micro_batch=micro_batch,
        row=row,
    )


def _lengths(batch: list[PlannedSample]) -> np.ndarray:
    return np.asarray([planned.num_tokens for planned in batch], dtype=np.int64)


def _chunks(steps: range) -> Iterator[range]:
    for start in range(steps.start, steps.stop, _COUNT_CHUNK_STEPS):
        yield range(start, min(steps.stop, start + _COUNT_CHUNK_STEPS))


def _nothing(language: str) -> SourceCount:
    return SourceCount(
        language=language,
        expected=0.0,
        num_samples=0,
        num_left_out=0,
        num_tokens=0,
        num_loss_tokens=0,
    )
