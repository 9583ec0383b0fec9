"""Many tensors in one buffer, for transport between processes and to a device.

A loader worker hands over every tensor as a file descriptor, and every tensor reaches a GPU in a
copy of its own. Packed, the tensors of a whole optimizer step need one of each.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch

_ALIGNMENT_BYTES = 64
"""Start of every tensor, as CPU and GPU kernels prefer it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlace:
    """Place of a tensor in a buffer of bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Offset in bytes."""

    @property
    def end(self) -> int:
        """Offset of the first byte behind the tensor."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return the tensor as a view of a buffer, on the device of the buffer."""
        return buffer[self.start : self.end].view(self.dtype).view(self.shape)


def pack_tensors(
    tensors: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, tuple[TensorPlace, ...]]:
    """Copy CPU tensors into one buffer (uint8), and return it with the place of each tensor.

    Tensors that are views of one buffer already are not copied.
    """
    if (shared := _find_shared_buffer(tensors)) is not None:
        return shared
    places, start = [], 0
    for tensor in tensors:
        place = TensorPlace(dtype=tensor.dtype, shape=tuple(tensor.shape), start=start)
        places.append(place)
        start = -(-place.end // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    buffer = torch.empty(start, dtype=torch.uint8)
    for tensor, place in zip(tensors, places, strict=True):
        place.view(buffer).copy_(tensor)
    return buffer, tuple(places)


def _find_shared_buffer(
    tensors: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, tuple[TensorPlace, ...]] | None:
    """Return the buffer of which all tensors are views, or None."""
    if not tensors:
        return None
    storage = tensors[0].untyped_storage()
    starts = [int(tensor.storage_offset()) * tensor.itemsize for tensor in tensors]
    is_packed = all(
        tensor.is_contiguous()
        and tensor.untyped_storage().data_ptr() == storage.data_ptr()
        and start % _ALIGNMENT_BYTES == 0
        for tensor, start in zip(tensors, starts, strict=True)
    )
    if not is_packed or storage.data_ptr() == 0:
        return None
    buffer = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return buffer, tuple(
        TensorPlace(dtype=tensor.dtype, shape=tuple(tensor.shape), start=start)
        for tensor, start in zip(tensors, starts, strict=True)
    )
