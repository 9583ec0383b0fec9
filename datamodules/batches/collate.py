"""Planned rows of encoded samples -> one packed MicroBatch."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from core.chat.tokens import IGNORE_INDEX, PADDING_DOCUMENT
from core.samples import EncodedSample, MicroBatch, SampleRef


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReadySample:
    """An encoded sample with its image, ready to be placed in a row."""

    ref: SampleRef
    encoded: EncodedSample
    image: torch.Tensor | None
    """float32: features (P, E) when they come from the cache, else pixels (C, H, W)."""


def collate_micro_batch(
    rows: Sequence[Sequence[ReadySample]], *, pad_token_id: int, is_features: bool
) -> MicroBatch:
    """Pack rows of samples, one document after the other.

    Empty rows are left out. A micro-batch without samples is one row of a single padding position:
    the rank still takes part in every collective of the step, with no target. `is_features` says
    whether images come as features of the frozen tower.
    """
    rows = [row for row in rows if row]
    width = max((sum(s.encoded.num_tokens for s in row) for row in rows), default=1)
    shape = (max(1, len(rows)), width)
    input_ids_BT = np.full(shape, pad_token_id, dtype=np.int64)
    labels_BT = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    position_ids_BT = np.zeros(shape, dtype=np.int64)
    document_ids_BT = np.full(shape, PADDING_DOCUMENT, dtype=np.int64)
    branch_ids_BT = np.zeros(shape, dtype=np.int64)
    for b, row in enumerate(rows):
        start = 0
        for document, sample in enumerate(row, start=PADDING_DOCUMENT + 1):
            ids_T, mask_T = sample.encoded.input_ids_T, sample.encoded.loss_mask_T
            place = slice(start, start + ids_T.size)
            input_ids_BT[b, place] = ids_T
            labels_BT[b, place][mask_T] = ids_T[mask_T]
            labels_BT[b, start] = IGNORE_INDEX
            position_ids_BT[b, place] = sample.encoded.positions()
            document_ids_BT[b, place] = document
            branch_ids_BT[b, place] = sample.encoded.branch_ids_T
            start = place.stop
    images = [sample.image for row in rows for sample in row if sample.image is not None]
    stacked = torch.stack(images) if images else None
    return MicroBatch(
        input_ids_BT=torch.from_numpy(input_ids_BT),
        labels_BT=torch.from_numpy(labels_BT),
        position_ids_BT=torch.from_numpy(position_ids_BT),
        document_ids_BT=torch.from_numpy(document_ids_BT),
        branch_ids_BT=torch.from_numpy(branch_ids_BT),
        pixels_NCHW=None if is_features else stacked,
        features_NPE=stacked if is_features else None,
        samples=tuple(sample.ref for row in rows for sample in row),
    )
