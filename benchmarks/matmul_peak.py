"""Measure the throughput of plain matrix products with the shapes of a model."""

import time
from collections.abc import Callable

import torch
from torch import nn

from models.language.blocks import decoder_blocks

_REPEATS = 30


def measure_peak(
    language_model: nn.Module, num_tokens: int, *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the highest rate in operations per second, two per multiply-add.

    Args:
        language_model: Model whose first decoder block gives the shapes of the weights.
        num_tokens: Number of rows of the other factor, as many as a micro-batch has tokens.
        clock: Function that returns the time in seconds.

    The rate is the best over the shapes and over repetitions, in float32 with the number of threads
    that torch uses. It is the limit of a step that consists of matrix products only.
    """
    weights = [p for p in decoder_blocks(language_model)[0].parameters() if p.ndim == 2]
    rates = []
    for height, width in sorted({(p.shape[0], p.shape[1]) for p in weights}):
        left, right = torch.randn(num_tokens, width), torch.randn(width, height)
        durations = []
        for _ in range(_REPEATS):
            start = clock()
            torch.mm(left, right)
            durations.append(clock() - start)
        rates.append(2 * num_tokens * width * height / min(durations))
    return max(rates)
