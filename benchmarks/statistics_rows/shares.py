"""Rates of wrong decisions about sufficient shares."""

import itertools
from collections.abc import Iterator

from benchmarks.statistics_rows.rows import WRONG, Row, simulate_cells, tally
from core.rng import named_rng
from evaluation.statistics.decisions import ALPHA
from evaluation.statistics.sweeps.share_comparison import ShareComparison

DELTA = 0.03
_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_CLAIMED = 1
TRUTHS = {
    "20 % is 3 points below four equal shares": (0.33, 0.47, 0.5, 0.5, 0.5, 0.5),
    "20 % is 3 points below one share": (0.33, 0.47, 0.5, 0.4, 0.4, 0.4),
    "20 % is 6 points below one share": (0.33, 0.44, 0.5, 0.4, 0.4, 0.4),
    "100 % drops by 8 points": (0.33, 0.5, 0.5, 0.5, 0.5, 0.42),
    "flat from 20 % on": (0.33, 0.5, 0.5, 0.5, 0.5, 0.5),
}
IMAGES = (35, 100, 373, 1000, 4000)


def share_rows(num_grids: int, seed: int) -> Iterator[Row]:
    """Yield the rows of finding H1, of a drop and of a plateau, for all sizes."""
    for case, truths in TRUTHS.items():
        for num_images in IMAGES:
            outcomes = [_decide(seed + at, truths, num_images) for at in range(num_grids)]
            bars: dict[str, tuple[float, float] | None] = {
                event: WRONG for event in outcomes[0] if "(right)" not in event
            }
            yield from tally("shares", f"{case}, {num_images} images", outcomes, bars)


def _decide(seed: int, truths: tuple[float, ...], num_images: int) -> dict[str, bool]:
    """Return the events of one grid.

    A share that is worse than the best by exactly the margin is not sufficient, but refuting it
    counts as wrong too, as in the review.
    """
    rng = named_rng(seed, "shares", num_images)
    scores, images = simulate_cells(rng, truths, num_images)
    found = ShareComparison(_SHARES, scores, images, delta=DELTA)
    gaps = [max(truths) - truth for truth in truths]
    insufficient = {s for s, gap in zip(_SHARES, gaps, strict=True) if gap > DELTA - 1e-9}
    chosen = set(found.sufficient())
    is_supported = found.p_sufficient(_CLAIMED) <= ALPHA
    is_refuted = found.p_insufficient(_CLAIMED) <= ALPHA
    gap = gaps[_CLAIMED]
    events = {"the set has a share that is not sufficient": bool(chosen & insufficient)}
    wrong_support, wrong_refutation = gap > DELTA - 1e-9, gap < DELTA + 1e-9
    events["20 % supported" + ("" if wrong_support else " (right)")] = is_supported
    events["20 % refuted" + ("" if wrong_refutation else " (right)")] = is_refuted
    order = dict(zip(_SHARES, truths, strict=True))
    drops = found.drops()
    events["a false drop"] = any(order[d.larger] >= order[d.smaller] for d in drops)
    has_drop = any(b < a for a, b in itertools.pairwise(truths))
    events["a drop is found" + (" (right)" if has_drop else "")] = bool(drops)
    return events
