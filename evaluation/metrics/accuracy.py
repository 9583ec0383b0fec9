"""Accuracies as torchmetrics, whose states are sums and can be merged over ranks.

Sums are taken in float64 over all scores of an update at once, as NumPy does, so a metric that is
updated once equals `numpy.mean` of its scores to the last bit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric

from core.errors import DataError

PERCENT = 100.0
_UNPARSED = -1


class MeanScore(Metric):
    """Mean of per-item scores, in percent."""

    full_state_update = False
    score_sum: torch.Tensor
    count: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        """Start without items; `kwargs` are passed to `torchmetrics.Metric`."""
        super().__init__(**kwargs)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("score_sum", default=zero.clone(), dist_reduce_fx="sum")
        self.add_state("count", default=zero.clone(), dist_reduce_fx="sum")

    def update(self, scores: Sequence[float] | np.ndarray) -> None:
        """Add items by their scores, each in 0..1."""
        values = np.asarray(scores, dtype=np.float64)
        self.score_sum += float(values.sum())
        self.count += len(values)

    def compute(self) -> torch.Tensor:
        """Return the mean in percent.

        Raises:
            DataError: If no item was added.
        """
        _check_has_items(self.count, "mean score")
        return PERCENT * (self.score_sum / self.count)


class VQAAccuracy(Metric):
    """Mean VQA score in percent, over all items and per answer type."""

    full_state_update = False
    score_sums: torch.Tensor
    counts: torch.Tensor

    def __init__(self, answer_types: Sequence[str], **kwargs: Any) -> None:
        """Start without items.

        Args:
            answer_types: All answer types of the benchmark, in the same order on every rank.
            **kwargs: Passed to `torchmetrics.Metric`.
        """
        super().__init__(**kwargs)
        self.answer_types = tuple(answer_types)
        zeros = torch.zeros(1 + len(self.answer_types), dtype=torch.float64)
        self.add_state("score_sums", default=zeros.clone(), dist_reduce_fx="sum")
        self.add_state("counts", default=zeros.clone(), dist_reduce_fx="sum")

    def update(
        self, scores: Sequence[float] | np.ndarray, answer_types: Sequence[str] | np.ndarray
    ) -> None:
        """Add items by their scores (0..1) and answer types.

        Raises:
            DataError: If an answer type was not passed to the constructor.
        """
        if unknown := sorted(set(answer_types) - set(self.answer_types)):
            known = ", ".join(self.answer_types)
            raise DataError(f"answer type '{unknown[0]}' is not one of this metric's: {known}")
        values = np.asarray(scores, dtype=np.float64)
        labels = np.asarray(answer_types, dtype=object)
        groups = [values, *(values[labels == name] for name in self.answer_types)]
        for at, group in enumerate(groups):
            self.score_sums[at] += float(group.sum())
            self.counts[at] += len(group)

    def compute(self) -> dict[str, torch.Tensor]:
        """Return percentages: "accuracy" over all items, and one for each answer type with items.

        Raises:
            DataError: If no item was added.
        """
        _check_has_items(self.counts[0], "VQA accuracy")
        return {
            name: PERCENT * (self.score_sums[at] / self.counts[at])
            for at, name in enumerate(["accuracy", *self.answer_types])
            if self.counts[at]
        }


class MultipleChoiceAccuracy(Metric):
    """Accuracy and share of unparsed replies, in percent."""

    full_state_update = False
    counts: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        """Start without items; `kwargs` are passed to `torchmetrics.Metric`."""
        super().__init__(**kwargs)
        # items, correct, unparsed
        zeros = torch.zeros(3, dtype=torch.float64)
        self.add_state("counts", default=zeros, dist_reduce_fx="sum")

    def update(
        self, scores: Sequence[float] | np.ndarray, parsed: Sequence[object] | np.ndarray
    ) -> None:
        """Add items by their scores (0 or 1) and the parsed replies (None if unparsed)."""
        num_unparsed = sum(reply is None for reply in parsed)
        num_correct = float(np.asarray(scores, dtype=np.float64).sum())
        self.counts += self.counts.new_tensor([len(parsed), num_correct, num_unparsed])

    def compute(self) -> dict[str, torch.Tensor]:
        """Return the percentages "accuracy" and "unparsed".

        Raises:
            DataError: If no item was added.
        """
        num_items, num_correct, num_unparsed = self.counts
        _check_has_items(num_items, "multiple-choice accuracy")
        return {
            "accuracy": PERCENT * (num_correct / num_items),
            "unparsed": PERCENT * (num_unparsed / num_items),
        }


class YesNoAccuracy(Metric):
    """Accuracy, precision, recall and F1 of "yes", yes-ratio and unparsed share, in percent.

    An unparsed reply is wrong: it misses a "yes" but is not a "yes" itself. A ratio with an empty
    denominator (for example, precision without a predicted "yes") is 0.
    """

    full_state_update = False
    counts: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        """Start without items; `kwargs` are passed to `torchmetrics.Metric`."""
        super().__init__(**kwargs)
        # rows: truth no, yes; columns: reply no, yes, unparsed
        zeros = torch.zeros(2, 3, dtype=torch.float64)
        self.add_state("counts", default=zeros, dist_reduce_fx="sum")

    def update(self, parsed: Sequence[bool | None], correct: Sequence[bool]) -> None:
        """Add items by what each reply was parsed as, and the correct answer."""
        for reply, is_yes in zip(parsed, correct, strict=True):
            column = _UNPARSED if reply is None else int(reply)
            self.counts[int(is_yes), column] += 1

    def compute(self) -> dict[str, torch.Tensor]:
        """Return the percentages by name.

        Raises:
            DataError: If no item was added.
        """
        total = self.counts.sum()
        _check_has_items(total, "yes/no accuracy")
        hits, said_yes, truly_yes = self.counts[1, 1], self.counts[:, 1].sum(), self.counts[1].sum()
        return {
            "accuracy": PERCENT * ((self.counts[0, 0] + hits) / total),
            "precision": PERCENT * hits / said_yes.clamp(min=1),
            "recall": PERCENT * hits / truly_yes.clamp(min=1),
            "f1": PERCENT * 2 * hits / (said_yes + truly_yes).clamp(min=1),
            "yes_ratio": PERCENT * said_yes / total,
            "unparsed": PERCENT * (self.counts[:, 2].sum() / total),
        }


def _check_has_items(count: torch.Tensor, name: str) -> None:
    if not count:
        raise DataError(f"{name} of no items; call update with at least one")
