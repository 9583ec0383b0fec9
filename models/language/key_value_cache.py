"""Key-value cache whose memory is allocated once for all tokens of a reply."""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]  # untyped base class
    """Cache layer that writes new keys and values into free space behind the stored ones.

    `DynamicLayer` copies everything that is stored for each new token. The returned tensors are
    views with equal content, so replies do not change.
    """

    def __init__(self, layer: DynamicLayer, num_new_tokens: int) -> None:
        """Copy an initialised layer into a buffer with room for more tokens."""
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._key_buffer = _with_room(layer.keys, num_new_tokens)
        self._value_buffer = _with_room(layer.values, num_new_tokens)
        self._show(layer.keys.shape[-2])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the keys and values (B, H, T, C) of new tokens and return those of all tokens."""
        del args, kwargs
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        self._key_buffer[:, :, start:end] = key_states
        self._value_buffer[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def _show(self, num_tokens: int) -> None:
        self.keys = self._key_buffer[:, :, :num_tokens]
        self.values = self._value_buffer[:, :, :num_tokens]


def preallocate(cache: DynamicCache, num_new_tokens: int) -> None:
    """Replace the filled full-attention layers of a cache by preallocated ones.

    Layers of other kinds, such as sliding windows, bound their memory themselves and stay.
    """
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[index] = PreallocatedLayer(layer, num_new_tokens)


def _with_room(states: torch.Tensor, num_new_tokens: int) -> torch.Tensor:
    """Return a copy of (B, H, T, C) with `num_new_tokens` unused positions at the end."""
    num_rows, num_heads, num_tokens, width = states.shape
    buffer = states.new_empty(num_rows, num_heads, num_tokens + num_new_tokens, width)
    buffer[:, :, :num_tokens] = states
    return buffer
