"""Sample-by-sample counts of a stream, and checks that they match the configuration.

Separate from `mixture`, which guarantees the shares: the counts here do not use its formulas, so a
bug in either one is detected.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from core.process.log import get_logger
from core.samples import StepBatch
from datamodules.batches.lengths import SourceLengths
from datamodules.mixture.component import Component
from datamodules.mixture.config import ShareOf
from datamodules.mixture.stream import MixtureStream

_LOG = get_logger(__name__)
_COUNT_CHUNK_STEPS = 4096
_MAX_DEVIATION_SAMPLES = 1.0
"""The schedule guarantees a smaller deviation for every component and phase."""
_NOTABLE_SHARE_DEVIATION = 0.01
"""Deviation of a token share that triggers a warning."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RealisedShare:
    """Samples and loss tokens that one source contributed so far, over all ranks."""

    num_samples: int
    num_loss_tokens: int


class ConsumedCounts:
    """Samples per source in the contiguous steps that this rank has consumed."""

    def __init__(self, first_step: int) -> None:
        self.first_step = self.next_step = first_step
        self._counts: Counter[str] = Counter()

    def add(self, step_batch: StepBatch) -> None:
        """Count a step, including its bad samples."""
        self.next_step += 1
        for micro_batch in step_batch.micro_batches:
            self._counts.update(ref.source for ref in micro_batch.samples)
        self._counts.update(bad.source for bad in step_batch.bad_samples)

    def check(self, stream: MixtureStream, *, is_single_rank: bool) -> None:
        """Compare the counts with the stream; with several ranks, the stream is an upper bound.

        Raises:
            RuntimeError: If samples were lost or repeated, which is a bug.
        """
        batch_size = stream.samples_per_step
        planned = stream.realised(self.first_step * batch_size, self.next_step * batch_size)
        for source in sorted({*planned, *self._counts}):
            seen, held = self._counts[source], planned.get(source, 0)
            if seen > held or (is_single_rank and seen < held):
                raise RuntimeError(
                    f"source '{source}' has {seen} samples in steps {self.first_step}.."
                    f"{self.next_step - 1}, the stream has {held}; this is a bug in the data loader"
                )


class PlannedCounts:
    """Planned counts of all ranks since step 0, by phase, component and language."""

    def __init__(self, stream: MixtureStream, lengths: Mapping[str, SourceLengths]) -> None:
        self._stream, self._lengths = stream, lengths
        self._num_steps = 0
        shape = (stream.schedule.num_phases, len(stream.components), 2)
        self._samples, self._good, self._loss_tokens = (np.zeros(shape, np.int64) for _ in range(3))

    def state(self, step: int) -> dict[str, Any]:
        """Return the counts before `step` as JSON types, so that a resumed run need not recount."""
        self._advance(step)
        counts = (self._samples, self._good, self._loss_tokens)
        return {"num_steps": step, "counts": [array.tolist() for array in counts]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore counts that `state` returned for the same stream."""
        self._num_steps = int(state["num_steps"])
        counts = (np.asarray(array, dtype=np.int64) for array in state["counts"])
        self._samples, self._good, self._loss_tokens = counts

    def samples_before(self, step: int) -> Counter[str]:
        """Return the samples of each source before `step`, including bad ones."""
        self._advance(step)
        counts: Counter[str] = Counter()
        for c, component in enumerate(self._stream.components):
            for is_target in (False, True):
                source = component.source(is_target=is_target).name
                counts[source] += int(self._samples[:, c, int(is_target)].sum())
        return counts

    def realised_shares(self, step: int) -> dict[str, RealisedShare]:
        """Return the usable samples of each source before `step`; cheap if steps only increase."""
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
        """Advance the counts to `step`; restart from 0 if `step` is earlier than before."""
        if step < self._num_steps:
            self._num_steps = 0
            for counts in (self._samples, self._good, self._loss_tokens):
                counts[:] = 0
        while self._num_steps < step:
            stop = min(step, self._num_steps + _COUNT_CHUNK_STEPS)
            self._count(self._num_steps, stop)
            self._num_steps = stop

    def check(self, num_steps: int) -> None:
        """Compare the counts of all steps with the configuration, and log the shares.

        Raises:
            RuntimeError: If a component deviates by more than one sample, or if an epoch has a
                different number of target-language samples than planned. Both are bugs.
        """
        self._advance(num_steps)
        for phase, start, stop in _phases(self._stream, num_steps):
            _check_counts(self._stream, phase, stop - start, self._samples[phase].sum(axis=1))
            for c, component in enumerate(self._stream.components):
                if component.target is not None and self._samples[phase, c].any():
                    self._check_language_counts(component, c, phase, start, stop)
                    self._log_language_shares(component, c, phase)

    def _count(self, start: int, stop: int) -> None:
        """Add the steps [start, stop)."""
        batch_size = self._stream.samples_per_step
        located = self._stream.locate(np.arange(start * batch_size, stop * batch_size))
        for c, component in enumerate(self._stream.components):
            for is_target in (False, True):
                here = (located.component == c) & (located.is_target == is_target)
                if not here.any():
                    continue
                samples, phases = located.sample[here], located.phase[here]
                lengths = self._lengths[component.source(is_target=is_target).name]
                cell = (slice(None), c, int(is_target))
                self._samples[cell] += self._sum_per_phase(phases, np.ones_like(samples))
                self._good[cell] += self._sum_per_phase(phases, lengths.tokens_of(samples) > 0)
                self._loss_tokens[cell] += self._sum_per_phase(
                    phases, lengths.loss_tokens_of(samples)
                )

    def _sum_per_phase(self, phases: np.ndarray, values: np.ndarray) -> np.ndarray:
        # float64 is exact here: all sums are below 2^53.
        sums = np.bincount(phases, weights=values, minlength=len(self._samples))
        return sums.astype(np.int64)

    def _check_language_counts(
        self, component: Component, c: int, phase: int, start: int, stop: int
    ) -> None:
        """Check that each whole epoch has exactly the planned number of target-language samples."""
        schedule = self._stream.schedule
        first, end = (int(schedule.prefix_counts(position)[c]) for position in (start, stop))
        low, high = _language_bounds(
            first, end, len(component), component.num_target_samples[phase]
        )
        found = int(self._samples[phase, c, 1])
        if not low <= found <= high:
            raise RuntimeError(
                f"component '{component.name}', phase {phase}: {found} of {end - first} samples in "
                f"the target language, expected {low}..{high}; this is a bug in the mixture"
            )

    def _log_language_shares(self, component: Component, c: int, phase: int) -> None:
        step = self._stream.schedule.start_steps[phase]
        wanted = component.configured_share(step)
        unit = component.config.share_of
        share_of = {
            ShareOf.SAMPLES: _language_share(self._samples[phase, c]),
            ShareOf.LOSS_TOKENS: _language_share(self._loss_tokens[phase, c]),
        }
        is_off = (
            unit is ShareOf.LOSS_TOKENS and abs(share_of[unit] - wanted) > _NOTABLE_SHARE_DEVIATION
        )
        (_LOG.warning if is_off else _LOG.info)(
            "component '%s' from step %d: %.2f %% of samples and %.2f %% of loss tokens in the "
            "target language (configured: %.2f %% of %s)",
            component.name,
            step,
            100 * share_of[ShareOf.SAMPLES],
            100 * share_of[ShareOf.LOSS_TOKENS],
            100 * wanted,
            unit.value,
        )


def log_token_shares(stream: MixtureStream) -> None:
    """Log the number of samples that each share of loss tokens corresponds to."""
    for component in stream.components:
        if component.config.share_of is not ShareOf.LOSS_TOKENS:
            continue
        for step, number in zip(
            stream.schedule.start_steps, component.num_target_samples, strict=True
        ):
            _, share = component.config.at(step)
            if number < 0:  # paused in this phase
                continue
            _LOG.info(
                "component '%s' from step %d: %d of %d samples in the target language for "
                "%.2f %% of the loss tokens",
                component.name,
                step,
                number,
                len(component),
                100 * share,
            )


def check_prediction(stream: MixtureStream, num_steps: int) -> None:
    """Check before the first step that the schedule gives every component its share.

    Raises:
        RuntimeError: If a component would deviate by more than one sample, which is a bug.
    """
    for phase, start, stop in _phases(stream, num_steps):
        before, after = stream.schedule.prefix_counts(start), stream.schedule.prefix_counts(stop)
        _check_counts(stream, phase, stop - start, after - before)


def _phases(stream: MixtureStream, num_steps: int) -> Iterator[tuple[int, int, int]]:
    """Yield (phase, first position, end position) for every phase that is reached."""
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
        if abs(count - share) > _MAX_DEVIATION_SAMPLES:
            raise RuntimeError(
                f"component '{component.name}', phase {phase}: {count} of {num_positions} samples, "
                f"its share is {share:.2f}; this is a bug in the schedule"
            )


def _language_bounds(first: int, end: int, size: int, num_target_samples: int) -> tuple[int, int]:
    """Return the bounds on target-language samples among the indices [first, end)."""
    head = min(end - first, -first % size)
    whole, tail = divmod(end - first - head, size)
    low = sum(max(0, part - (size - num_target_samples)) for part in (head, tail))
    high = sum(min(part, num_target_samples) for part in (head, tail))
    return whole * num_target_samples + low, whole * num_target_samples + high


def _language_share(counts: np.ndarray) -> float:
    return float(counts[1] / max(int(counts.sum()), 1))
