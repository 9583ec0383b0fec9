"""Cross-entropy that computes logits at label positions only."""

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

LOSS_METHOD = "summed_loss"
"""Name of the method that `attach_loss` adds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LossSum:
    """Summed loss; the caller divides it by the global number of loss tokens."""

    loss_sum: torch.Tensor
    """float32 scalar with gradient."""
    num_loss_tokens: int
    """Number of positions whose loss was summed."""
    token_losses_K: torch.Tensor
    """float32 loss of each of these positions, without gradient."""


def summed_cross_entropy(
    hidden_BTD: torch.Tensor,
    labels_BT: torch.Tensor,
    loss_positions_K: torch.Tensor,
    output_layer: Callable[[torch.Tensor], torch.Tensor],
    *,
    chunk: int = 0,
) -> LossSum:
    """Sum -log p(label at t | hidden at t-1) over the positions of labels, counted along all rows.

    States are gathered BEFORE the output layer, which is most of the work with a large vocabulary
    and is not needed for prompts, images and padding. Without any label the sum is zero, and every
    parameter still gets a (zero) gradient.

    With `chunk`, logits exist for that many positions at a time and are recomputed in the backward
    pass: with a vocabulary of 128k, 1,024 positions take half a gigabyte in float32.

    CONTRACT: the first token of a document has no label, because the token before it belongs to
    another document.
    """
    hidden_KD = hidden_BTD.flatten(0, 1).index_select(0, loss_positions_K - 1)
    labels_K = labels_BT.flatten().index_select(0, loss_positions_K)
    attached = getattr(output_layer, LOSS_METHOD, None)
    sum_loss = attached or partial(_sum_chunks, output_layer)
    loss_sum, token_losses_K = sum_loss(hidden_KD, labels_K, chunk=chunk)
    return LossSum(
        loss_sum=loss_sum, num_loss_tokens=labels_K.numel(), token_losses_K=token_losses_K
    )


def attach_loss(output_layer: nn.Module) -> None:
    """Give an output layer a method that computes the loss of all chunks without hooks in between.

    FSDP2 can then treat it as the forward pass of the layer (`register_fsdp_forward_method`).
    """
    setattr(output_layer, LOSS_METHOD, partial(_sum_chunks, output_layer.forward))


def _sum_chunks(
    output_layer: Callable[[torch.Tensor], torch.Tensor],
    hidden_KD: torch.Tensor,
    labels_K: torch.Tensor,
    *,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    if not 0 < chunk < labels_K.numel():
        return _cross_entropy(hidden_KD, labels_K, output_layer)
    parts = [
        checkpoint(
            _cross_entropy, *part, output_layer, use_reentrant=False, preserve_rng_state=False
        )
        for part in zip(torch.split(hidden_KD, chunk), torch.split(labels_K, chunk), strict=True)
    ]
    sums, token_losses = zip(*parts, strict=True)
    return torch.stack(sums).sum(), torch.cat(token_losses)


def _cross_entropy(
    hidden_KD: torch.Tensor,
    labels_K: torch.Tensor,
    output_layer: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss and the loss of every position, which has no gradient."""
    # What cross_entropy computes, in two steps: the sum is rounded as it is there, and the losses
    # of the positions are read from a result that the backward pass keeps anyway.
    log_probs_KV = functional.log_softmax(output_layer(hidden_KD).float(), dim=-1)
    loss_sum = functional.nll_loss(log_probs_KV, labels_K, reduction="sum")
    token_losses_K = -log_probs_KV.detach().gather(1, labels_K[:, None])[:, 0]
    return loss_sum, token_losses_K
