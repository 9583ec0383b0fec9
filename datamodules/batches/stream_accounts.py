"""Counts of what a training stage has consumed and skipped, and the checks that rely on them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.process.log import get_logger
from core.samples import BadSample, StepBatch
from datamodules.batches.accounting import ConsumedCounts, PlannedCounts, RealisedShare
from datamodules.batches.bad_samples import BadSampleLedger, FaultCounts, count_faults
from datamodules.batches.lengths import SourceLengths
from datamodules.mixture.stream import MixtureStream

_LOG = get_logger(__name__)
_MIN_BUDGET_SAMPLES = 1000
"""Smallest denominator of the bad-sample budget: one bad sample out of ten shows no trend."""


class StreamAccounts:
    """The books of one training stage: consumed, planned and bad samples of every source.

    Planned samples are computed from the stream, so they cover all ranks and attempts without any
    communication. Bad samples of earlier attempts come from the ledger on disk; within an attempt,
    each rank counts its own.
    """

    def __init__(
        self,
        stream: MixtureStream,
        lengths: Mapping[str, SourceLengths],
        *,
        num_steps: int,
        max_bad_fraction: float,
        ledger_dir: Path | None = None,
    ) -> None:
        """Open the books of a stage.

        Args:
            stream: The mixture stream that the stage trains on.
            lengths: Token counts of every source, by source name.
            num_steps: Number of optimizer steps of the stage.
            max_bad_fraction: Largest share of bad samples that a source may have.
            ledger_dir: Folder of the bad-sample ledger, shared by all ranks; None keeps no ledger.
        """
        self._stream, self._num_steps = stream, num_steps
        self._max_bad_fraction = max_bad_fraction
        self._planned = PlannedCounts(stream, lengths)
        self._consumed = ConsumedCounts(first_step=0)
        self._ledger_dir = ledger_dir
        self._ledger: BadSampleLedger | None = None
        self.bad_counts: Counter[str] = Counter()
        """Bad samples per source: all ranks in earlier attempts, this rank in the current one."""
        self._seen_counts: Counter[str] = Counter()

    def begin_attempt(self, step: int, rank: int) -> None:
        """Continue the bad-sample budget from where earlier attempts left it.

        Args:
            step: First optimizer step of this attempt.
            rank: Rank of this process.
        """
        if self._ledger_dir is None:
            return
        first = step * self._stream.samples_per_step
        self._ledger = BadSampleLedger(self._ledger_dir, rank=rank, first_position=first)
        self.bad_counts = self._ledger.before()
        self._seen_counts = self._planned.samples_before(step)

    def record(self, step_batch: StepBatch, *, world_size: int = 1) -> None:
        """Count a consumed step of this rank and check it against the bad-sample budget.

        After the last step, the realised mixture is compared with the configured one.

        Raises:
            DataError: If a source has more bad samples than `max_bad_fraction` allows.
            RuntimeError: If the realised mixture is not the configured one, which is a bug.
        """
        if step_batch.step != self._consumed.next_step:
            self._consumed = ConsumedCounts(first_step=step_batch.step)
        self._consumed.add(step_batch)
        for micro_batch in step_batch.micro_batches:
            self._seen_counts.update(ref.source for ref in micro_batch.samples)
        for bad in step_batch.bad_samples:
            self._seen_counts[bad.source] += 1
            self.bad_counts[bad.source] += 1
            if self._ledger is not None:
                self._ledger.add(bad)
            _LOG.warning("step %d: skipped a bad sample: %s", step_batch.step, bad.reason)
        for bad in step_batch.bad_samples:
            self._check_budget(bad)
        if step_batch.step == self._num_steps - 1:
            self._planned.check(self._num_steps)
            self._consumed.check(self._stream, is_single_rank=world_size == 1)

    def realised_shares(self, step: int) -> dict[str, RealisedShare]:
        """Return what each source contributed before `step`; cheap when steps only increase."""
        return self._planned.realised_shares(step)

    def fault_counts(self, step: int) -> FaultCounts:
        """Return the bad samples before `step` by source and fault, over all ranks."""
        if self._ledger_dir is None:
            return {}
        return count_faults(self._ledger_dir, stop=step * self._stream.samples_per_step)

    def state(self, step: int) -> dict[str, Any]:
        """Return the planned counts before `step` as JSON types."""
        return self._planned.state(step)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the planned counts that `state` returned for the same stream."""
        self._planned.restore(state)

    def _check_budget(self, bad: BadSample) -> None:
        num_bad, num_seen = self.bad_counts[bad.source], self._seen_counts[bad.source]
        if num_bad > self._max_bad_fraction * max(num_seen, _MIN_BUDGET_SAMPLES):
            raise DataError(
                f"source '{bad.source}': {num_bad} of {num_seen} samples were bad, more than "
                f"max_bad_fraction={self._max_bad_fraction:g} allows; the last one: {bad.reason}. "
                "Repair the source or raise max_bad_fraction"
            )
