"""Summaries of a range of training steps, computed from the batch plan without reading images.

Separate from the command that prints them, so that the numbers can be tested without a terminal.
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
_MAX_PLANNED_STEPS = 100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlacedSample:
    """A sample of a step with its rank, micro-batch and row in the batch plan."""

    planned: PlannedSample
    key: str
    num_loss_tokens: int
    rank: int = 0
    micro_batch: int = 0
    row: int = 0
    reason: str = ""
    """Reason why the sample is skipped; rank, micro-batch and row are then meaningless."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """Packing statistics of a range of steps."""

    num_steps: int
    """Number of steps that were planned to compute the statistics."""
    micro_batches_per_step: float
    """Average number of micro-batches per step on each rank."""
    density: float
    """Fraction of positions that are not padding."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceCount:
    """Samples and tokens of one source in a range of steps."""

    language: str
    expected: float
    """Number of samples according to the configuration."""
    num_samples: int
    """Number of samples, including skipped ones."""
    num_skipped: int
    """Number of samples that are skipped because they are known to be bad."""
    num_tokens: int
    num_loss_tokens: int


def place_samples(data: StepData, step: int, *, world_size: int) -> list[PlacedSample]:
    """Return the samples of a step in stream order, with their place in the batch plan."""
    batch = global_batch(data, step)
    plan = plan_step(batch.num_tokens, world_size, data.micro_batch_tokens, data.row_tokens)
    places = {
        i: (rank, number, r)
        for rank, micro_batches in enumerate(plan)
        for number, rows in enumerate(micro_batches)
        for r, row in enumerate(rows)
        for i in row
    }
    return [_place_sample(data, planned, places.get(i)) for i, planned in enumerate(batch)]


def packing(data: StepData, steps: range, *, world_size: int) -> Packing:
    """Return packing statistics; of a long range, only evenly spaced steps are planned."""
    stride = max(1, -(-len(steps) // _MAX_PLANNED_STEPS))
    chosen = steps[::stride]
    num_micro_batches, tokens, positions = 0, 0.0, 0.0
    for step in chosen:
        lengths = global_batch(data, step).num_tokens
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
    """Count samples and tokens of every source, next to the configured number of samples."""
    counts: dict[str, SourceCount] = {}
    batch_size = data.stream.samples_per_step
    for chunk in _chunks(steps):
        positions = np.arange(chunk.start * batch_size, chunk.stop * batch_size, dtype=np.int64)
        located = data.stream.locate(positions)
        for c, component in enumerate(data.stream.components):
            for source in component.used_sources():
                is_target = source is component.target
                here = (located.component == c) & (located.is_target == is_target)
                samples, lengths = located.sample[here], data.lengths[source.name]
                num_tokens = lengths.tokens_of(samples)
                before = counts.get(source.name, _empty_count(source.language))
                counts[source.name] = SourceCount(
                    language=source.language,
                    expected=before.expected + expected(data.stream, c, chunk, is_target=is_target),
                    num_samples=before.num_samples + int(here.sum()),
                    num_skipped=before.num_skipped + int((num_tokens == 0).sum()),
                    num_tokens=before.num_tokens + int(num_tokens.sum()),
                    num_loss_tokens=before.num_loss_tokens
                    + int(lengths.loss_tokens_of(samples).sum()),
                )
    return counts


def expected(stream: MixtureStream, component: int, steps: range, *, is_target: bool) -> float:
    """Return the configured number of samples of one language of a component in some steps."""
    part, starts = stream.components[component], stream.schedule.start_steps
    total = 0.0
    for phase, (start, stop) in enumerate(itertools.pairwise((*starts, max(*starts, steps.stop)))):
        num_steps = max(0, min(stop, steps.stop) - max(start, steps.start))
        samples, share = part.config.at(start)[0], part.configured_share(start)
        if part.config.share_of is ShareOf.LOSS_TOKENS:
            share = part.num_target_samples[phase] / len(part)
        total += num_steps * samples * (share if is_target else 1.0 - share)
    return total


def by_language(counts: dict[str, SourceCount]) -> dict[str, SourceCount]:
    """Sum the counts over the sources of each language."""
    sums: dict[str, SourceCount] = {}
    for count in counts.values():
        before = sums.get(count.language, _empty_count(count.language))
        sums[count.language] = SourceCount(
            language=count.language,
            expected=before.expected + count.expected,
            num_samples=before.num_samples + count.num_samples,
            num_skipped=before.num_skipped + count.num_skipped,
            num_tokens=before.num_tokens + count.num_tokens,
            num_loss_tokens=before.num_loss_tokens + count.num_loss_tokens,
        )
    return sums


def _place_sample(
    data: StepData, planned: PlannedSample, place: tuple[int, int, int] | None
) -> PlacedSample:
    lengths, key = data.lengths[planned.source.name], planned.source.key(planned.index)
    if place is None:
        reason = str(lengths.fault_of(planned.source, planned.index))
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


def _chunks(steps: range) -> Iterator[range]:
    for start in range(steps.start, steps.stop, _COUNT_CHUNK_STEPS):
        yield range(start, min(steps.stop, start + _COUNT_CHUNK_STEPS))


def _empty_count(language: str) -> SourceCount:
    return SourceCount(
        language=language,
        expected=0.0,
        num_samples=0,
        num_skipped=0,
        num_tokens=0,
        num_loss_tokens=0,
    )
