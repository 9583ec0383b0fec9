"""Numeric precisions of a training stage, under Lightning's names."""

import contextlib
from contextlib import AbstractContextManager
from enum import StrEnum

import torch


class Precision(StrEnum):
    """Lightning precision of a training stage; it affects the result."""

    FLOAT32 = "32-true"
    """Weights and computation in float32."""
    BF16_MIXED = "bf16-mixed"
    """Float32 weights, matrix products in bfloat16."""
    BF16_TRUE = "bf16-true"
    """Weights and computation in bfloat16."""


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which operations on a device have the types of their inputs."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
