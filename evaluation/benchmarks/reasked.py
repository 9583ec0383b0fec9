"""Numbers of questions that the sanity checks of an evaluation ask again.

`evaluation.canaries` asks them, and the planner counts them.
"""

NUM_ALONE = 32
"""Questions that are asked again one at a time."""
_MAX_SHUFFLED, _MIN_SHUFFLED_OF_GROUP = 640, 20


def shuffled_per_group(num_groups: int) -> int:
    """Return the largest number of questions of a group that get the image of another one.

    Args:
        num_groups: Number of groups: benchmark, kind, answer type and language.
    """
    return max(_MIN_SHUFFLED_OF_GROUP, _MAX_SHUFFLED // max(1, num_groups))
