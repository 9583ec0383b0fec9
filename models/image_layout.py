"""Arrangement of tokens by the image that they follow, for connectors that work inside the decoder.

Shape legend: core/samples.py; L is the largest number of tokens that follow an image.
"""

import dataclasses

import torch

from core.samples import MicroBatch


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageLayout:
    """Arrangement of the tokens of a batch by the image that they see.

    A token sees the last image before it in its document, and its own if it is a placeholder.
    """

    tokens_NL: torch.Tensor
    """int64; for each image, positions of tokens in the rows laid one after the other. Places
    behind the last token of an image hold any position."""
    slots_BT: torch.Tensor
    """int64; the place of every token in `tokens_NL`, flattened; 0 if it sees no image."""
    sees_BT: torch.Tensor
    """bool; whether a token sees an image."""


def packed_layout(micro_batch: MicroBatch, *, num_image_tokens: int) -> ImageLayout:
    """Return the layout of packed rows, without waiting for a GPU."""
    rows, num_columns = micro_batch.input_ids_BT.shape
    firsts_N = micro_batch.image_positions_M[::num_image_tokens]
    device, num_places = firsts_N.device, micro_batch.longest_document
    total = rows * num_columns
    tokens_NL = (firsts_N[:, None] + torch.arange(num_places, device=device)).clamp(max=total - 1)
    positions_T = torch.arange(total, device=device)
    images_T = torch.searchsorted(firsts_N, positions_T, right=True) - 1
    starts = micro_batch.document_starts.to(firsts_N.dtype)
    document_T = torch.searchsorted(starts, positions_T, right=True) - 1
    sees_T = firsts_N[images_T.clamp(min=0)] >= starts[document_T]
    sees_T &= images_T >= 0
    slots_T = images_T * num_places + positions_T - firsts_N[images_T.clamp(min=0)]
    shape = (rows, num_columns)
    return ImageLayout(
        tokens_NL=tokens_NL,
        slots_BT=torch.where(sees_T, slots_T, 0).view(shape),
        sees_BT=sees_T.view(shape),
    )


def row_layout(sees_BT: torch.Tensor) -> ImageLayout:
    """Return the layout of rows of which each has an image of its own, or none that it sees."""
    slots_BT = torch.arange(sees_BT.numel(), device=sees_BT.device).view(sees_BT.shape)
    return ImageLayout(tokens_NL=slots_BT, slots_BT=slots_BT, sees_BT=sees_BT)
