"""Training loss of every source and language, over all ranks and micro-batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.process.distributed import all_reduce_sum
from core.samples import MicroBatch

BY_SOURCE, BY_LANGUAGE = "loss_by_source", "loss_by_language"
"""Prefixes of the metrics."""


class SourceLosses:
    """Sums of the loss of every source since they were last taken.

    Tokens have equal weight, so the loss of a language is that of its tokens, and the mean over all
    sources, weighted by their loss tokens, is the training loss. Sums stay on the device until they
    are taken; the numbers of tokens travel with one that every step needs anyway. The state is part
    of the checkpoint, so that the first line after a resume covers the same steps.
    """

    def __init__(self) -> None:
        self._languages: dict[str, str] = {}
        self._index: dict[str, int] = {}
        self._sums_S = torch.zeros(0, dtype=torch.float64)
        self._step_S = self._sums_S
        self._counts: list[float] = []
        self._restored: Mapping[str, Sequence[float]] = {}

    def begin(self, languages: Mapping[str, str], device: torch.device) -> None:
        """Start to measure, from the state of a checkpoint if one was restored.

        Args:
            languages: Source -> language; the same on all ranks.
            device: Device of the losses.
        """
        self._languages = dict(sorted(languages.items()))
        self._index = {source: at for at, source in enumerate(self._languages)}
        known = [self._restored.get(source, (0.0, 0.0)) for source in self._languages]
        self._sums_S = torch.tensor([s for s, _ in known], dtype=torch.float64, device=device)
        self._step_S = torch.zeros_like(self._sums_S)
        self._counts = [count for _, count in known]

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the sources, sorted; empty before `begin`."""
        return tuple(sorted(set(self._languages.values())))

    def count_tokens(self, micro_batches: Sequence[MicroBatch]) -> list[int]:
        """Return the loss tokens of every source on this rank; empty if nothing is measured."""
        counts = [0] * len(self._index)
        for micro_batch in micro_batches if counts else ():
            for ref in micro_batch.samples:
                counts[self._index[ref.source]] += ref.num_loss_tokens
        return counts

    def add(self, micro_batch: MicroBatch, token_losses_K: torch.Tensor) -> None:
        """Add the losses of a micro-batch of this rank, without waiting for the device."""
        if not self._index or not micro_batch.sources:
            return
        own_S = self._sums_S.new_zeros(len(micro_batch.sources))
        own_S.index_add_(0, micro_batch.loss_sources_K, token_losses_K.double())
        for number, source in enumerate(micro_batch.sources):
            self._step_S[self._index[source]] += own_S[number]

    def end_step(self, counts: Sequence[float]) -> None:
        """Add up the losses of all ranks.

        Args:
            counts: Loss tokens of every source on all ranks, in the order of `count_tokens`.
        """
        if not self._index:
            return
        self._sums_S += all_reduce_sum(self._step_S)
        self._step_S.zero_()
        self._counts = [old + new for old, new in zip(self._counts, counts, strict=True)]

    def take(self) -> dict[str, float]:
        """Return the mean loss of every source and language that had loss tokens, and start again.

        Returns:
            Metric -> loss in nats per token.
        """
        sums, counts = dict.fromkeys(self._languages.values(), 0.0), dict[str, float]()
        losses: dict[str, float] = {}
        totals = zip(self._languages.items(), self._sums_S.tolist(), self._counts, strict=True)
        for (source, language), loss_sum, count in totals:
            sums[language] += loss_sum
            counts[language] = counts.get(language, 0.0) + count
            if count:
                losses[f"{BY_SOURCE}/{source}"] = loss_sum / count
        for language, count in counts.items():
            if count:
                losses[f"{BY_LANGUAGE}/{language}"] = sums[language] / count
        self._sums_S.zero_()
        self._counts = [0.0] * len(self._counts)
        return losses

    def state(self) -> dict[str, Any]:
        """Return the sums and counts of every source as JSON types; the same on all ranks."""
        sums = self._sums_S.tolist()
        return {source: [sums[at], self._counts[at]] for source, at in self._index.items()}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Restore what `state` returned, for the next `begin`."""
        self._restored = state
