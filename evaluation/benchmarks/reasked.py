"""Questions that an evaluation asks again: for sanity checks, and with further wordings.

`evaluation.canaries` and `evaluation.wordings` ask them, and the planner counts them.
"""

from evaluation.benchmarks.items import Benchmark

WORDED_KINDS = (
    Benchmark.VQA,
    Benchmark.MULTIPLE_CHOICE,
    Benchmark.CAPTION_QA,
    Benchmark.DIRECT,
)
"""Kinds of benchmarks whose instruction says what a reply should look like."""

NUM_ALONE = 32
"""Questions that are asked again one at a time."""
_MAX_SHUFFLED, _MIN_SHUFFLED_OF_GROUP = 640, 20


def shuffled_per_group(num_groups: int) -> int:
    """Return the largest number of questions of a group that get the image of another one.

    Args:
        num_groups: Number of groups: benchmark, kind, answer type and language.
    """
    return max(_MIN_SHUFFLED_OF_GROUP, _MAX_SHUFFLED // max(1, num_groups))
