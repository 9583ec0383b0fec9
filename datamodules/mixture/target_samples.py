"""Amounts of target-language data as numbers of samples instead of shares.

Separate from the stream, which compares the permuted index of a sample with a limit, whatever its
origin.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from core.errors import ConfigError
from datamodules.mixture.config import MixtureConfig
from datamodules.mixture.curriculum import PhasedSchedule


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlannedNumber:
    """Planned number of target-language samples of one component."""

    number: int
    """Different samples in the target language."""
    num_served: int
    """Samples of the component in the stage, with repetitions."""
    capacity: int
    """Different samples of the component in the stage."""
    num_base: int | None
    """Different samples in the base language; None for all others."""

    @property
    def share(self) -> float:
        """Share of the different samples that have the target language."""
        return self.number / self.capacity if self.capacity else 0.0


def distribute(number: int, capacities: Sequence[int]) -> list[int]:
    """Distribute a number of samples over components in proportion to what they can serve.

    All components get the same share, rounded (Webster's method). A larger number never gives a
    component fewer samples, so that the sets of two numbers are nested.

    Args:
        number: Number of samples, at most the sum of the capacities.
        capacities: Number of different samples that each component serves.
    """
    marks = np.concatenate([(np.arange(size) + 0.5) / size for size in capacities])
    owners = np.repeat(np.arange(len(capacities)), capacities)
    chosen = owners[np.argsort(marks, kind="stable")[:number]]
    counts: list[int] = np.bincount(chosen, minlength=len(capacities)).tolist()
    return counts


def plan_numbers(
    config: MixtureConfig, schedule: PhasedSchedule, sizes: Mapping[str, int]
) -> dict[str, PlannedNumber]:
    """Plan the target-language samples of every component with two languages.

    Args:
        config: A mixture with `target_samples`.
        schedule: Its schedule.
        sizes: Number of samples of each component.

    Raises:
        ConfigError: If the stage serves too few different samples; the message names the largest
            possible number.
    """
    amount = config.target_samples
    if amount is None:
        return {}
    num_drawn = schedule.prefix_counts(amount.num_steps * schedule.samples_per_step)
    served = dict(zip(sorted(config.components), num_drawn.tolist(), strict=True))
    names = list(config.parallel)
    capacities = [min(sizes[name], served[name]) for name in names]
    wanted, needed = f"target_samples={amount.number}", amount.number
    if amount.num_base is not None:
        wanted, needed = f"{wanted} and base_samples={amount.num_base}", needed + amount.num_base
    if needed > (most := sum(capacities)):
        raise ConfigError(
            f"{wanted} need {needed} different samples that have both languages, but the "
            f"{amount.num_steps} steps of the stage serve {most}; use at most {most}, or train for "
            "more steps if the sources have more samples"
        )
    numbers = distribute(amount.number, capacities)
    bases: Sequence[int | None] = [None] * len(names)
    if amount.num_base is not None:
        counts = distribute(amount.num_base, capacities)
        kept = [number + base for number, base in zip(numbers, counts, strict=True)]
        for name, count, capacity in zip(names, kept, capacities, strict=True):
            if not 0 < count <= capacity:
                raise ConfigError(
                    f"{wanted} give component '{name}' {count} samples, but it serves {capacity}; "
                    "choose numbers that leave every component between one and all of its samples"
                )
        capacities, bases = kept, counts
    return {
        name: PlannedNumber(
            number=number, num_base=num_base, num_served=served[name], capacity=capacity
        )
        for name, number, num_base, capacity in zip(names, numbers, bases, capacities, strict=True)
    }


def index_limit(number: int, permuted: np.ndarray, size: int) -> int:
    """Return the limit below which exactly `number` of the permuted indices lie.

    Args:
        number: Number of samples that should have the target language.
        permuted: Index of every served sample in a fixed permutation of the component, int64.
        size: Number of samples of the component; the limit if all served samples are chosen.
    """
    if number in (0, len(permuted)):
        return size if number else 0
    return int(np.partition(permuted, number - 1)[number - 1]) + 1
