"""Collation of planned rows of encoded samples into one packed micro-batch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from core.chat.tokens import IGNORE_INDEX, PADDING_DOCUMENT
from core.samples import EncodedSample, MicroBatch, SampleRef

ImageInputs = Mapping[str, torch.Tensor]
"""Inputs of a ready-made model for one image."""
JoinImages = Callable[[Sequence[ImageInputs]], dict[str, torch.Tensor]]
"""Joins the inputs of the images of a micro-batch, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReadySample:
    """An encoded sample with its image tensor, ready to be packed into a row."""

    ref: SampleRef
    encoded: EncodedSample
    image: torch.Tensor | ImageInputs | None
    """float32 features (P, E) from the feature cache, uint8 pixels (C, H, W), or what the image
    processor of a ready-made model returns."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RowLayout:
    """Arrangement of the rows of a micro-batch, which changes the result by rounding at most."""

    is_end_to_end: bool = False
    """Lay all rows one after the other, as one row without padding between them. Suits kernels
    whose cost does not grow with the length of a row."""
    multiple: int = 1
    """Pad the rows to a multiple of this length: a GPU's allocator reuses memory of equal sizes."""


PADDED_ROWS = RowLayout()
"""Rows of equal length; the arrangement of a CPU."""


def collate_micro_batch(
    rows: Sequence[Sequence[ReadySample]],
    *,
    pad_token_id: int,
    image_token_id: int,
    is_features: bool,
    layout: RowLayout = PADDED_ROWS,
    join_images: JoinImages | None = None,
) -> MicroBatch:
    """Pack the samples of each row one after the other, as separate documents.

    Empty rows are dropped. A micro-batch without samples becomes one row with a single padding
    position, so that the rank still takes part in every collective of the step without any loss
    tokens.

    Args:
        rows: The samples of each row.
        pad_token_id: Token id of padding positions.
        image_token_id: Token id of placeholders.
        is_features: Whether images are features of the frozen vision tower instead of pixels.
        layout: Arrangement of the rows.
        join_images: For ready-made models: joins the inputs of several images.
    """
    rows = [row for row in rows if row]
    if layout.is_end_to_end:
        rows = [[sample for row in rows for sample in row]]
    longest = max((sum(s.encoded.num_tokens for s in row) for row in rows), default=0)
    width = -(-max(longest, 1) // layout.multiple) * layout.multiple
    shape = (max(1, len(rows)), width)
    input_ids_BT = np.full(shape, pad_token_id, dtype=np.int64)
    labels_BT = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    position_ids_BT = np.zeros(shape, dtype=np.int64)
    document_ids_BT = np.full(shape, PADDING_DOCUMENT, dtype=np.int64)
    branch_ids_BT = np.zeros(shape, dtype=np.int64)
    rotary_ABT = _empty_axes(rows, shape)
    for b, row in enumerate(rows):
        start = 0
        for document, sample in enumerate(row, start=PADDING_DOCUMENT + 1):
            ids_T, mask_T = sample.encoded.input_ids_T, sample.encoded.loss_mask_T
            span = slice(start, start + ids_T.size)
            input_ids_BT[b, span] = ids_T
            labels_BT[b, span][mask_T] = ids_T[mask_T]
            position_ids_BT[b, span] = sample.encoded.positions()
            document_ids_BT[b, span] = document
            branch_ids_BT[b, span] = sample.encoded.branch_ids_T
            if rotary_ABT is not None:
                rotary_ABT[:, b, span] = sample.encoded.rotary_positions_AT
            start = span.stop
    images = [sample.image for row in rows for sample in row if sample.image is not None]
    tensors = [image for image in images if isinstance(image, torch.Tensor)]
    inputs = [image for image in images if not isinstance(image, torch.Tensor)]
    stacked = torch.stack(tensors) if tensors else None
    return MicroBatch.of_rows(
        input_ids_BT=torch.from_numpy(input_ids_BT),
        labels_BT=torch.from_numpy(labels_BT),
        position_ids_BT=torch.from_numpy(position_ids_BT),
        document_ids_BT=torch.from_numpy(document_ids_BT),
        branch_ids_BT=torch.from_numpy(branch_ids_BT),
        image_token_id=image_token_id,
        pixels_NCHW=None if is_features else stacked,
        features_NPE=stacked if is_features else None,
        samples=tuple(sample.ref for row in rows for sample in row),
        rotary_positions_ABT=None if rotary_ABT is None else torch.from_numpy(rotary_ABT),
        image_inputs=join_images(inputs) if inputs and join_images is not None else None,
    )


def _empty_axes(rows: Sequence[Sequence[ReadySample]], shape: tuple[int, int]) -> np.ndarray | None:
    """Return zeros (A, B, T) for the rotary positions of all rows; None without such axes."""
    axes = [x.encoded.rotary_positions_AT for row in rows for x in row]
    if not axes or axes[0] is None:
        return None
    return np.zeros((len(axes[0]), *shape), dtype=np.int64)
