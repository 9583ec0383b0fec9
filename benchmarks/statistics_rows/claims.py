"""Rates of wrong decisions about claims, single ones and families."""

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.statistics_rows.rows import WRONG, Row, simulate_cells, tally
from core.rng import named_rng
from evaluation.statistics.decisions import (
    Decision,
    RelativeMargin,
    Verdict,
    equivalence,
    non_inferiority,
    superiority,
)
from evaluation.statistics.heterogeneity import heterogeneity
from evaluation.statistics.multiple_testing import apply_holm

DELTA = 0.03
_IMAGES = (20, 35, 100, 373)


def claim_rows(num_grids: int, seed: int) -> Iterator[Row]:
    """Yield decisions about claims at the edge of the margin, the hardest case."""
    for num_images in _IMAGES:
        outcomes = [_single_claims(seed + at, num_images) for at in range(num_grids)]
        bars: dict[str, tuple[float, float] | None] = dict.fromkeys(outcomes[0], WRONG)
        bars["equivalence supported, equal cells (right)"] = None
        yield from tally("claims", f"{num_images} images", outcomes, bars)


def family_rows(num_grids: int, seed: int) -> Iterator[Row]:
    """Yield the rate of families of six claims with any wrong verdict."""
    for num_images in (35, 373):
        outcomes = [_families(seed + at, num_images) for at in range(num_grids)]
        bars: dict[str, tuple[float, float] | None] = dict.fromkeys(outcomes[0], WRONG)
        bars["six false claims, uncorrected: any support"] = None
        yield from tally("families", f"{num_images} images", outcomes, bars)


def heterogeneity_rows(num_grids: int, seed: int) -> Iterator[Row]:
    """Yield how often parts with equal effects are called heterogeneous."""
    for num_images in _IMAGES:
        outcomes = []
        for at in range(num_grids):
            rng = named_rng(seed + at, "heterogeneity")
            scores, images = simulate_cells(rng, (0.5,) * 8, num_images)
            found = heterogeneity(scores[:4] - scores[4:], images)
            outcomes.append(
                {"parts are called unlike": found.p_value is not None and found.p_value <= 0.05}
            )
        case = f"{num_images} images, four parts with equal effects"
        yield from tally("heterogeneity", case, outcomes, {"parts are called unlike": WRONG})


def _single_claims(seed: int, num_images: int) -> dict[str, bool]:
    rng = named_rng(seed, "claims", num_images)
    truths = (0.5, 0.5 - DELTA, 0.5 + DELTA, 0.5, 0.3, 0.48)
    (first, below, above, same, blind, tenth), images = simulate_cells(rng, truths, num_images)
    edge = non_inferiority(below, first, images, delta=DELTA, seed=0)
    # Best minus blind is 20 points, a tenth of it 2 points.
    margin = RelativeMargin(fraction=0.1, blind=blind)
    relative = non_inferiority(tenth, first, images, delta=margin, seed=0)
    better = superiority(same, first, images, seed=0)
    outside = equivalence(above, first, images, delta=DELTA, seed=0)
    alike = equivalence(same, first, images, delta=DELTA, seed=0)
    return {
        "non-inferiority at the edge: supported": _is(edge, Verdict.SUPPORTED),
        "non-inferiority at the edge: refuted": _is(edge, Verdict.REFUTED),
        "relative margin at the edge: supported": _is(relative, Verdict.SUPPORTED),
        "relative margin at the edge: refuted": _is(relative, Verdict.REFUTED),
        "superiority of equal cells: supported": _is(better, Verdict.SUPPORTED),
        "superiority of equal cells: refuted": _is(better, Verdict.REFUTED),
        "equivalence at the edge: supported": _is(outside, Verdict.SUPPORTED),
        "equivalence at the edge: refuted": _is(outside, Verdict.REFUTED),
        "equivalence of equal cells: refuted": _is(alike, Verdict.REFUTED),
        "equivalence supported, equal cells (right)": _is(alike, Verdict.SUPPORTED),
    }


def _families(seed: int, num_images: int) -> dict[str, bool]:
    rng = named_rng(seed, "families", num_images)
    scores, images = simulate_cells(rng, (0.5, *(0.5 - DELTA,) * 6), num_images)
    false = [non_inferiority(s, scores[0], images, delta=DELTA, seed=0) for s in scores[1:]]
    # Three claims just true and three just false: both kinds of errors share one level.
    edges = (DELTA - 1e-6, DELTA + 1e-6)
    truths = (0.5, *(0.5 - edges[at % 2] for at in range(6)))
    scores, images = simulate_cells(rng, truths, num_images)
    mixed = [non_inferiority(s, scores[0], images, delta=DELTA, seed=0) for s in scores[1:]]
    wrong = [Verdict.REFUTED, Verdict.SUPPORTED] * 3
    scores, images = simulate_cells(rng, (0.5,) * 7, num_images)
    equal = [superiority(s, scores[0], images, seed=0) for s in scores[1:]]
    return {
        "six false claims, uncorrected: any support": _any(false, [Verdict.SUPPORTED] * 6),
        "six false claims: any support": _any(apply_holm(false), [Verdict.SUPPORTED] * 6),
        "three true, three false claims: any wrong": _any(apply_holm(mixed), wrong),
        "six superiorities of equal cells: any support": _any(
            apply_holm(equal), [Verdict.SUPPORTED] * 6
        ),
        "six superiorities of equal cells: any refutation": _any(
            apply_holm(equal), [Verdict.REFUTED] * 6
        ),
    }


def _is(decision: Decision, verdict: Verdict) -> bool:
    return decision.verdict is verdict


def _any(decisions: Sequence[Decision], verdicts: Sequence[Verdict]) -> bool:
    return bool(np.any([_is(d, v) for d, v in zip(decisions, verdicts, strict=True)]))
