"""Numeric precisions of training, under Lightning's names, and of weights in evaluation."""

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
    FLOAT8_MIXED = "float8-mixed"
    """As `bf16-mixed`, but the matrix products of the decoder blocks are in float8, scaled row by
    row (`models.language.float8`)."""

    @property
    def is_mixed(self) -> bool:
        """Return whether products have fewer bits than the float32 weights that are trained."""
        return self in (Precision.BF16_MIXED, Precision.FLOAT8_MIXED)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which operations on a device have the types of their inputs."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


class EvaluationWeights(StrEnum):
    """Type of the weights while a model is evaluated; it can change replies and scores."""

    FLOAT32 = "float32"
    """The type in which the embedded profile trains."""
    BFLOAT16 = "bfloat16"
    """Half the memory, and matrix products in 16 bits: the type of 8B checkpoints."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the type as torch names it."""
        return torch.bfloat16 if self is EvaluationWeights.BFLOAT16 else torch.float32

    @property
    def num_bytes(self) -> int:
        """Return the size of a weight in bytes."""
        return self.dtype.itemsize
