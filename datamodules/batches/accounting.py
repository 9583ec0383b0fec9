"""What a stream really gives, counted sample by sample, and whether that is what was asked for.

Kept apart from `mixture`, which promises the shares: here they are counted without its formulas.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from core.process.log import get_logger
from core.samples import StepBatch
from datamodules.batches.lengths import SourceLengths
from datamodules.mixture.config import ShareOf
from datamodules.mixture.stream import Component, MixtureStream

_LOG = get_logger(__name__)
_COUNT_CHUNK_STEPS = 4096
_MOST_DEVIATION = 1.0
"""Samples; the schedule promises less for every component and phase."""
_NOTABLE_DEVIATION = 0.01
"""Deviation of a share of tokens that is worth a warning."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RealisedShare:
    """What one source has given to the stream so far, over all ranks."""

    num_samples: int
    num_loss_tokens: int
    """Target tokens."""


class ConsumedCounts:
    """Samples per source of the steps that this rank has consumed without a gap."""

    def __init__(self, first_step: int) -> None:
        self.first_step = self.next_step = first_step
        self._counts: Counter[str] = Counter()

    def add(self, step_batch: StepBatch) -> None:
        """Count a step, samples that were left out included."""
        self.next_step += 1
        for micro_batch in step_batch.micro_batches:
            self._counts.update(ref.source for ref in micro_batch.samples)
        self._counts.update(bad.source for bad in step_batch.bad_samples)

    def check(self, stream: MixtureStream, *, is_single_rank: bool) -> None:
        """Compare with what the stream holds; with other ranks, as its upper bound.

        Raises:
            RuntimeError: samples were lost or repeated, which is a bug.
        """
        num_slots = stream.samples_per_step
        planned = stream.realised(self.first_step * num_slots, self.next_step * num_slots)
        for source in sorted({*planned, *self._counts}):
            seen, held = self._counts[source], planned.get(source, 0)
            if seen > held or (is_single_rank and seen < held):
                raise RuntimeError(
                    f"source '{source}' gave {seen} samples in the steps {self.first_step}.."
                    f"{self.next_step - 1}, the stream holds {held}; this is a bug of the loader"
                )


class PlannedCounts:
    """Counts of all ranks from the start of the stream on, by phase, component and language."""

    def __init__(self, stream: MixtureStream, lengths: Mapping[str, SourceLengths]) -> None:
        self._stream, self._lengths = stream, lengths
        self._num_steps = 0
        shape = (stream.schedule.num_phases, len(stream.components), 2)
        self._samples, self._good, self._loss_tokens = (np.zeros(shape, np.int64) for _ in range(3))

    def state(self, step: int) -> dict[str, Any]:
        """The counts before `step` as JSON types: a run resumed late need not count from 0."""
        self._advance(step)
        counts = (self._samples, self._good, self._loss_tokens)
        return {"num_steps": step, "counts": [array.tolist() for array in counts]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the counts of the same stream."""
        self._num_steps = int(state["num_steps"])
        counts = (np.asarray(array, dtype=np.int64) for array in state["counts"])
        self._samples, self._good, self._loss_tokens = counts

    def samples_before(self, step: int) -> Counter[str]:
        """Samples of each source in the steps before `step`, bad ones too."""
        self._advance(step)
        counts: Counter[str] = Counter()
        for c, component in enumerate(self._stream.components):
            for is_target in (False, True):
                source = component.source(is_target=is_target).name
                counts[source] += int(self._samples[:, c, int(is_target)].sum())
        return counts

    def realised_shares(self, step: int) -> dict[str, RealisedShare]:
        """Usable samples of each source in the steps before `step`; cheap when steps go up."""
        self._advance(step)
        realised: dict[str, RealisedShare] = {}
        for c, component in enumerate(self._stream.components):
            for is_target in (False, True):
                name = component.source(is_target=is_target).name
                if name not in self._lengths:
                    continue
                before = realised.get(name, RealisedShare(num_samples=0, num_loss_tokens=0))
                good, loss_tokens = (
                    self._good[:, c, int(is_target)],
                    self._loss_tokens[:, c, int(is_target)],
                )
                realised[name] = RealisedShare(
                    num_samples=before.num_samples + int(good.sum()),
                    num_loss_tokens=before.num_loss_tokens + int(loss_tokens.sum()),
                )
        return realised

    def _advance(self, step: int) -> None:
        """Count on, or anew when steps went back."""
        if step < self._num_steps:
            self._num_steps = 0
            for counts in (self._samples, self._good, self._loss_tokens):
                counts[:] = 0
        while self._num_steps < step:
            stop = min(step, self._num_steps + _COUNT_CHUNK_STEPS)
            self._count(self._num_steps, stop)
            self._num_steps = stop

    def check(self, num_steps: int) -> None:
        """Compare what so many steps gave with the configuration, and log the shares.

        Raises:
            RuntimeError: a component is more than a sample off, or an epoch has another number of
                samples in the target language than was settled. Both are bugs.
        """
        self._advance(num_steps)
        for phase, start, stop in _phases(self._stream, num_steps):
            _check_counts(self._stream, phase, stop - start, self._samples[phase].sum(axis=1))
            for c, component in enumerate(self._stream.components):
                if component.target is not None and self._samples[phase, c].any():
                    self._check_language(component, c, phase, start, stop)
                    self._log_language(component, c, phase)

    def _count(self, start: int, stop: int) -> None:
        """Add the steps [start, stop)."""
        num_slots = self._stream.samples_per_step
        located = self._stream.locate(np.arange(start * num_slots, stop * num_slots))
        for c, component in enumerate(self._stream.components):
            for is_target in (False, True):
                here = (located.component == c) & (located.is_target == is_target)
                if not here.any():
                    continue
                samples, phases = located.sample[here], located.phase[here]
                lengths = self._lengths[component.source(is_target=is_target).name]
                place = (slice(None), c, int(is_target))
                self._samples[place] += self._per_phase(phases, np.ones_like(samples))
                self._good[place] += self._per_phase(phases, lengths.num_tokens[samples] > 0)
                self._loss_tokens[place] += self._per_phase(
                    phases, lengths.num_loss_tokens[samples]
                )

    def _per_phase(self, phases: np.ndarray, values: np.ndarray) -> np.ndarray:
        # Sums below 2^53, which float64 holds exactly.
        sums = np.bincount(phases, weights=values, minlength=len(self._samples))
        return sums.astype(np.int64)

    def _check_language(
        self, component: Component, c: int, phase: int, start: int, stop: int
    ) -> None:
        """Whole epochs have exactly the settled number in the target language."""
        schedule = self._stream.schedule
        first, end = (int(schedule.prefix_counts(position)[c]) for position in (start, stop))
        low, high = _language_bounds(
            first, end, len(component), component.num_target_samples[phase]
        )
        found = int(self._samples[phase, c, 1])
        if not low <= found <= high:
            raise RuntimeError(
                f"component '{component.name}', phase {phase}: {found} of {end - first} samples in "
                f"the target language, expected {low}..{high}; this is a bug of the mixture"
            )

    def _log_language(self, component: Component, c: int, phase: int) -> None:
        step = self._stream.schedule.start_steps[phase]
        _, wanted = component.config.at(step)
        unit = component.config.share_of
        share_of = {
            ShareOf.SAMPLES: _language_share(self._samples[phase, c]),
            ShareOf.LOSS_TOKENS: _language_share(self._loss_tokens[phase, c]),
        }
        is_off = unit is ShareOf.LOSS_TOKENS and abs(share_of[unit] - wanted) > _NOTABLE_DEVIATION
        (_LOG.warning if is_off else _LOG.info)(
            "component '%s' from step %d on: %.2f %% of samples and %.2f %% of target tokens in "
            "the target language (configured: %.2f %% of %s)",
            component.name,
            step,
            100 * share_of[ShareOf.SAMPLES],
            100 * share_of[ShareOf.LOSS_TOKENS],
            100 * wanted,
            unit.value,
        )


def log_token_shares(stream: MixtureStream) -> None:
    """Say what the shares of tokens came to, in samples."""
    for component in stream.components:
        if component.config.share_of is not ShareOf.LOSS_TOKENS:
            continue
        for step, number in zip(
            stream.schedule.start_steps, component.num_target_samples, strict=True
        ):
            _, share = component.config.at(step)
            if number < 0:  # at rest
                continue
            _LOG.info(
                "component '%s' from step %d on: %d of %d samples in the target language for "
                "%.2f %% of the target tokens",
                component.name,
                step,
                number,
                len(component),
                100 * share,
            )


def check_prediction(stream: MixtureStream, num_steps: int) -> None:
    """Check before the first step that the stream will deal every component its share.

    Raises:
        RuntimeError: one would be more than a sample off, which is a bug.
    """
    for phase, start, stop in _phases(stream, num_steps):
        before, after = stream.schedule.prefix_counts(start), stream.schedule.prefix_counts(stop)
        _check_counts(stream, phase, stop - start, after - before)


def _phases(stream: MixtureStream, num_steps: int) -> Iterator[tuple[int, int, int]]:
    """Phase, first position, and the one after its last, for all that is reached."""
    end = num_steps * stream.samples_per_step
    for phase in range(stream.schedule.num_phases):
        start, stop = stream.schedule.bounds(phase, end)
        if start < stop:
            yield phase, start, stop


def _check_counts(
    stream: MixtureStream, phase: int, num_positions: int, counts: np.ndarray
) -> None:
    expected = stream.schedule.expected(phase, num_positions)
    for component, count, share in zip(stream.components, counts, expected, strict=True):
        if abs(count - share) > _MOST_DEVIATION:
            raise RuntimeError(
                f"component '{component.name}', phase {phase}: {count} of {num_positions} samples, "
                f"its share is {share:.2f}; this is a bug of the schedule"
            )


def _language_bounds(first: int, end: int, size: int, num_target_samples: int) -> tuple[int, int]:
    """Fewest and most samples in the target language among those of ranks [first, end)."""
    head = min(end - first, -first % size)
    whole, tail = divmod(end - first - head, size)
    low = sum(max(0, part - (size - num_target_samples)) for part in (head, tail))
    high = sum(min(part, num_target_samples) for part in (head, tail))
    return whole * num_target_samples + low, whole * num_target_samples + high


def _language_share(counts: np.ndarray) -> float:
    return float(counts[1] / max(int(counts.sum()), 1))
