"""Cross-entropy at label positions only: no logits where nobody asks for them."""

import dataclasses
from collections.abc import Callable

import torch
from torch.nn import functional

from core.tokens import IGNORE_INDEX


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LossSum:
    """A sum and what it is a sum of; the caller divides by the global number of targets."""

    loss_sum: torch.Tensor
    """float32 scalar with gradient."""
    num_targets: torch.Tensor
    """int64 scalar on the same device."""


def summed_cross_entropy(
    hidden_BTD: torch.Tensor,
    labels_BT: torch.Tensor,
    output_layer: Callable[[torch.Tensor], torch.Tensor],
) -> LossSum:
    """Sum of -log p(label at t | hidden at t-1) over positions with a label.

    States are gathered BEFORE the output layer: with a large vocabulary it is most of the work,
    and prompts, pictures and padding need none of it. Without any label the sum is zero and
    every parameter still gets a (zero) gradient.

    CONTRACT: the first token of a document has no label; its predecessor belongs to another one.
    """
    targets_BT = labels_BT[:, 1:]
    is_target_BT = targets_BT != IGNORE_INDEX
    hidden_KD = hidden_BTD[:, :-1][is_target_BT]
    targets_K = targets_BT[is_target_BT]
    logits_KV = output_layer(hidden_KD).float()
    loss_sum = functional.cross_entropy(logits_KV, targets_K, reduction="sum")
    return LossSum(loss_sum=loss_sum, num_targets=is_target_BT.sum())
