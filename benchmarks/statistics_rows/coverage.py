"""Coverage of the intervals of single cells, of differences and of the gains of a curve."""

from collections.abc import Iterator

import numpy as np

from benchmarks.statistics_rows.rows import (
    COVERAGE,
    WRONG,
    Row,
    simulate_cells,
    simulate_shares,
    tally,
)
from core.rng import named_rng
from evaluation.statistics.intervals import Interval, mean_interval, paired_difference
from evaluation.statistics.sweeps.sufficiency import sufficient_shares

_CORRELATION = 0.3
_IMAGES = (20, 35, 100, 373)
_SHARES = (0.02, 0.1, 0.5, 0.9, 0.98)
_CURVE_SHARES = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
_COVERED = "95 % interval contains the truth"


def share_coverage_rows(num_grids: int, seed: int) -> Iterator[Row]:
    """Yield the coverage of the accuracy of a cell with beta-binomial images."""
    for num_images in _IMAGES:
        for sizes in ("4", "1 to 20"):
            for share in _SHARES:
                outcomes = [
                    {_COVERED: _covers(_cell(seed + at, share, num_images, sizes), share)}
                    for at in range(num_grids)
                ]
                case = f"{num_images} images, {sizes} questions each, accuracy {100 * share:g} %"
                yield from tally("coverage", case, outcomes, {_COVERED: COVERAGE})


def difference_coverage_rows(num_grids: int, seed: int) -> Iterator[Row]:
    """Yield the coverage of a difference of 3 points between two cells."""
    for num_images in _IMAGES:
        outcomes = []
        for at in range(num_grids):
            rng = named_rng(seed + at, "difference")
            (first, second), images = simulate_cells(rng, (0.5, 0.47), num_images, per_image=20)
            keep = rng.random(len(images)) < rng.uniform(0.05, 1, num_images)[images]
            found = paired_difference(first[keep], second[keep], images[keep], seed=0)
            outcomes.append({_COVERED: _covers(found, 0.03)})
        case = f"difference, {num_images} images of unequal size"
        yield from tally("coverage", case, outcomes, {_COVERED: COVERAGE})


def curve_rows(num_grids: int, seed: int) -> Iterator[Row]:
    """Yield the level of the test of lack of fit and the coverage of gains, on a true curve."""
    start, rise, scale = 0.32, 0.33, 0.3
    truths = start + rise * (1 - np.exp(-_CURVE_SHARES / scale))
    gains = rise * np.exp(-_CURVE_SHARES / scale) * (1 - np.exp(-0.1 / scale))
    for num_images in (100, 373):
        outcomes = []
        for at in range(num_grids):
            rng = named_rng(seed + at, "curve")
            scores, images = simulate_cells(rng, truths, num_images)
            curve = sufficient_shares(
                tuple(_CURVE_SHARES), scores, images, delta=0.03, seed=0
            ).curve
            if curve is None:
                raise ValueError(f"grid {at} has no curve")
            _, low, high = curve.gains[2]
            outcomes.append(
                {
                    "lack of fit": not curve.is_adequate,
                    "interval of the gain at 40 % contains the truth": low <= gains[2] <= high,
                }
            )
        bars = {"lack of fit": WRONG, "interval of the gain at 40 % contains the truth": COVERAGE}
        yield from tally("curve", f"{num_images} images, true curve", outcomes, bars)


def _cell(seed: int, share: float, num_images: int, sizes: str) -> Interval:
    rng = named_rng(seed, "coverage", num_images, sizes, f"{share}")
    sizes_P = rng.integers(1, 21, num_images) if sizes != "4" else np.full(num_images, 4)
    scores, images = simulate_shares(rng, share, sizes_P, correlation=_CORRELATION)
    return mean_interval(scores, images, seed=0)


def _covers(interval: Interval, truth: float) -> bool:
    if interval.low is None or interval.high is None:
        raise ValueError("these grids must have intervals")
    return interval.low <= truth <= interval.high
