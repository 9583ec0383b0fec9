"""Rows of the simulation, and grids with known truth."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from evaluation.statistics.intervals import wilson_interval

WRONG = (0.0, 0.06)
"""Bar of a rate of wrong decisions at a nominal level of 5 %."""
COVERAGE = (0.94, 0.96)
"""Bar of the coverage of a 95 % interval."""
_SPREAD, _OWN = 0.12, 0.05
"""Standard deviation of the ease of images, and of the additional effect of a cell on an image."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Frequency of an event in simulated grids."""

    group: str
    case: str
    """The truth and the size of the grids."""
    event: str
    count: int
    num_grids: int
    bar: tuple[float, float] | None
    """Range in which the true rate must lie; None for a rate that is only informative."""

    @property
    def rate(self) -> float:
        """Share of grids."""
        return self.count / self.num_grids

    @property
    def has_passed(self) -> bool:
        """Return whether the observed rate lies within the bar."""
        return self.bar is None or self.bar[0] <= self.rate <= self.bar[1]

    def to_json(self) -> dict[str, object]:
        """Return the row with its rate and the 95 % interval of it."""
        low, high = wilson_interval(self.count, self.num_grids)
        return {**dataclasses.asdict(self), "rate": self.rate, "interval": [low, high]}


def tally(
    group: str,
    case: str,
    outcomes: Iterable[dict[str, bool]],
    bars: dict[str, tuple[float, float] | None],
) -> list[Row]:
    """Count the events of grids; every grid yields the same events."""
    found = list(outcomes)
    return [
        Row(
            group=group,
            case=case,
            event=event,
            count=sum(bool(grid[event]) for grid in found),
            num_grids=len(found),
            bar=bars.get(event),
        )
        for event in found[0]
    ]


def simulate_cells(
    rng: np.random.Generator, accuracies: Sequence[float], num_images: int, per_image: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Return binary scores (cells, items) and the image of every item.

    The probability of a right answer is the accuracy of the cell plus the ease of the image plus
    noise of both. The latter two have means of exactly 0 over the population, so the accuracy of
    the cell is the truth.

    Raises:
        ValueError: If an accuracy is so close to 0 or 1 that a probability could lie outside.
    """
    reach = (_SPREAD + _OWN) * math.sqrt(3)
    if min(accuracies) < reach or max(accuracies) > 1 - reach:
        raise ValueError(f"accuracies {list(accuracies)}; expected {reach:.2f}..{1 - reach:.2f}")
    ease_P = rng.uniform(-1, 1, num_images) * _SPREAD * math.sqrt(3)
    own_CP = rng.uniform(-1, 1, (len(accuracies), num_images)) * _OWN * math.sqrt(3)
    chance_CP = np.asarray(accuracies)[:, None] + ease_P + own_CP
    chance_CI = np.repeat(chance_CP, per_image, axis=1)
    scores_CI = (rng.random(chance_CI.shape) < chance_CI).astype(np.float64)
    return scores_CI, np.repeat(np.arange(num_images), per_image)


def simulate_shares(
    rng: np.random.Generator, share: float, sizes_P: np.ndarray, *, correlation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return beta-binomial scores of one cell and the image of every item."""
    scale = 1 / correlation - 1
    chance_P = rng.beta(share * scale, (1 - share) * scale, len(sizes_P))
    images_I = np.repeat(np.arange(len(sizes_P)), sizes_P)
    return (rng.random(len(images_I)) < chance_P[images_I]).astype(np.float64), images_I
