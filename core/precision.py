"""Numeric precisions of a training stage, under Lightning's names."""

from enum import StrEnum


class Precision(StrEnum):
    """Lightning precision of a training stage; it affects the result."""

    FLOAT32 = "32-true"
    """Weights and computation in float32."""
    BF16_MIXED = "bf16-mixed"
    """Float32 weights, matrix products in bfloat16."""
    BF16_TRUE = "bf16-true"
    """Weights and computation in bfloat16."""
