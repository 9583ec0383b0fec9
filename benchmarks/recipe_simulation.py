"""Check intervals and decisions about training recipes on simulated grids with known truth.

    python -m benchmarks.recipe_simulation --grids 2000 --json docs/benchmarks/recipes.json

A grid has six cells with five trainings each on 373 images with three questions each. A training
shifts the score of its cell by a normal random number. The difference of the compared recipes lies
at the margin, the hardest case for a decision. Each row counts, for one layout of replicated
cells, how often the 95 % interval covers the true difference and how often the claim of
non-inferiority is supported or refuted, at the interface of
`evaluation.statistics.trainings.recipes`. Further rows compare the power that
`evaluation.statistics.trainings.power` predicts with simulated grids.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.rng import named_rng
from evaluation.statistics.claim_tests import ClaimTest
from evaluation.statistics.decisions import ALPHA, Verdict
from evaluation.statistics.intervals import CONFIDENCE, wilson_interval
from evaluation.statistics.trainings.power import claim_power
from evaluation.statistics.trainings.recipes import (
    RecipeDecision,
    SeedScores,
    recipe_decision,
    training_variance,
)

DELTA = 0.03
_BASE = 0.5
_SPREAD, _OWN = 0.18, 0.08
"""Standard deviations of the ease of images, and of the effect of a cell on an image."""
_NUM_CELLS, _NUM_SEEDS = 6, 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedGrids:
    """A population of grids."""

    training_sd: float
    """Standard deviation of the shift of a training, in points."""
    num_images: int = 373
    is_unequal: bool = False
    """Whether images have between one and many questions, three on average."""
    seed_correlation: float = 0.0
    """Correlation of the shifts of trainings with the same seed in different cells."""
    deficit: float = DELTA
    """How much worse the first, third and fifth cell are than the others."""

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return binary scores (cells, seeds, items) and the image of every item."""
        sizes_P = np.full(self.num_images, 3)
        if self.is_unequal:
            sizes_P = rng.geometric(1 / 3, self.num_images)
        worse_C11 = (np.arange(_NUM_CELLS) % 2 == 0)[:, None, None] * self.deficit
        own_C1P = rng.uniform(-1, 1, (_NUM_CELLS, 1, self.num_images)) * _OWN * math.sqrt(3)
        ease_P = rng.uniform(-1, 1, self.num_images) * _SPREAD * math.sqrt(3)
        own_part = math.sqrt(1 - self.seed_correlation)
        shift_CS1 = own_part * rng.normal(size=(_NUM_CELLS, _NUM_SEEDS, 1))
        shift_CS1 += math.sqrt(self.seed_correlation) * rng.normal(size=(1, _NUM_SEEDS, 1))
        shift_CS1 *= self.training_sd / 100
        chance_CSP = _BASE - worse_C11 + shift_CS1 + ease_P + own_C1P
        chance_CSI = np.repeat(chance_CSP.astype(np.float32), sizes_P, axis=2)
        scores_CSI = rng.random(chance_CSI.shape, dtype=np.float32) < chance_CSI
        images_I = np.repeat(np.arange(self.num_images), sizes_P)
        return scores_CSI.astype(np.float64), images_I


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonLayout:
    """Trainings of every cell of a grid, and the pairs that are compared."""

    name: str
    num_seeds: tuple[int, ...]
    """Trainings of the first cells of the grid; others are not trained."""
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)


def standard_layouts() -> list[ComparisonLayout]:
    """Return the layouts of the acceptance criterion: two to five seeds, two to six cells."""
    return [
        ComparisonLayout(name=f"{cells} cells, {seeds} seeds", num_seeds=(seeds,) * cells)
        for seeds in (2, 3, 5)
        for cells in (2, 3, 4, 6)
    ]


def special_layouts() -> list[ComparisonLayout]:
    """Return layouts with unequal replication, several pairs, and the refused corner."""
    three = ((0, 1), (2, 3), (4, 5))
    return [
        ComparisonLayout(name="1 of 2 cells replicated, 3 seeds", num_seeds=(3, 1)),
        ComparisonLayout(name="the other 2 cells replicated", num_seeds=(1, 1, 5, 5)),
        ComparisonLayout(name="3 pairs, 2 seeds", num_seeds=(2,) * 6, pairs=three),
        ComparisonLayout(name="3 pairs, 3 seeds and 1 seed", num_seeds=(3, 1) * 3, pairs=three),
        ComparisonLayout(
            name="2 pairs share a cell, 3 seeds", num_seeds=(3,) * 3, pairs=((0, 1), (2, 1))
        ),
    ]


def all_rows() -> Iterator[tuple[SimulatedGrids, list[ComparisonLayout]]]:
    """Yield the populations with the layouts that are checked on each."""
    for sd in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
        yield SimulatedGrids(training_sd=sd), standard_layouts() + special_layouts()
    for sd in (0.0, 1.0, 3.0):
        yield SimulatedGrids(training_sd=sd, is_unequal=True), standard_layouts()
    for sd in (0.0, 2.0):
        yield SimulatedGrids(training_sd=sd, num_images=20), standard_layouts()[-4:]
    correlated = SimulatedGrids(training_sd=2.0, seed_correlation=0.5)
    yield correlated, standard_layouts()[4:8] + special_layouts()


def simulate_layouts(
    grids: SimulatedGrids,
    layouts: Sequence[ComparisonLayout],
    num_grids: int,
    *,
    seed: int = 0,
) -> list[dict[str, object]]:
    """Return one row of counts per layout; all layouts see the same grids."""
    outcomes: list[list[tuple[float, ...]]] = [[] for _ in layouts]
    for at in range(num_grids):
        scores_CSI, images_I = grids.draw(named_rng(seed, "recipes", at))
        for layout, outcome in zip(layouts, outcomes, strict=True):
            found = _decide_layout(layout, scores_CSI, images_I)
            outcome.append(_measure_outcome(found, -grids.deficit))
    rows: list[dict[str, object]] = []
    for layout, outcome in zip(layouts, outcomes, strict=True):
        covered, supported, refuted, half_width, df = np.array(outcome).T
        rows.append(
            {
                **dataclasses.asdict(grids),
                "layout": layout.name,
                "coverage": _rate(covered),
                "false_support": _rate(supported),
                "refuted_at_margin": _rate(refuted),
                "median_half_width_points": round(100 * float(np.median(half_width)), 2),
                "median_df": round(float(np.median(df)), 1),
            }
        )
    return rows


def simulate_power(num_grids: int, *, seed: int = 0) -> list[dict[str, object]]:
    """Return the power that `claim_power` predicts next to the share of supported claims."""
    rows: list[dict[str, object]] = []
    for training_sd, num_seeds, test, delta in (
        (0.0, 3, ClaimTest.NON_INFERIORITY, 0.04),
        (1.0, 2, ClaimTest.NON_INFERIORITY, 0.06),
        (1.0, 3, ClaimTest.NON_INFERIORITY, 0.05),
        (1.0, 5, ClaimTest.NON_INFERIORITY, 0.03),
        (2.0, 5, ClaimTest.NON_INFERIORITY, 0.05),
        (0.5, 5, ClaimTest.EQUIVALENCE, 0.04),
    ):
        grids = SimulatedGrids(training_sd=training_sd, deficit=0.0)
        layout = ComparisonLayout(name="two cells", num_seeds=(num_seeds, num_seeds))
        supported = 0
        for at in range(num_grids):
            scores_CSI, images_I = grids.draw(named_rng(seed, "power", at))
            found = _decide_layout(layout, scores_CSI, images_I, test=test, delta=delta)
            supported += found.decision.verdict is Verdict.SUPPORTED
        low, high = wilson_interval(supported, num_grids)
        predicted = claim_power(
            num_images=grids.num_images,
            items_per_image=3,
            num_seeds=num_seeds,
            test=test,
            delta=delta,
            training_sd=training_sd / 100,
            **_item_assumptions(),
        )
        rows.append(
            {
                "training_sd": training_sd,
                "num_seeds": num_seeds,
                "test": str(test),
                "delta": delta,
                "predicted": round(predicted, 4),
                "simulated": round(supported / num_grids, 4),
                "interval": [round(low, 4), round(high, 4)],
            }
        )
    return rows


def _item_assumptions() -> dict[str, float]:
    """Return the assumptions of `claim_power` that describe the simulated items exactly."""
    systematic = 2 * _OWN**2
    noise = 2 * (_BASE * (1 - _BASE) - _SPREAD**2 - _OWN**2)
    variance = systematic + noise
    return {
        "sd_item_difference": math.sqrt(variance),
        "intra_image_correlation": systematic / variance,
        # Of the variance of an image's sum of three items, 9 parts are systematic and 3 are noise.
        "noise_share": 3 * noise / (3 * noise + 9 * systematic),
    }


def _decide_layout(
    layout: ComparisonLayout,
    scores_CSI: np.ndarray,
    images_I: np.ndarray,
    *,
    test: ClaimTest = ClaimTest.NON_INFERIORITY,
    delta: float = DELTA,
) -> RecipeDecision:
    cells = [
        SeedScores(seeds=tuple(range(count)), scores_KI=scores_CSI[at, :count], clusters=images_I)
        for at, count in enumerate(layout.num_seeds)
    ]
    return recipe_decision(
        [cells[first] for first, _ in layout.pairs],
        [cells[second] for _, second in layout.pairs],
        training_variance(cells),
        test=test,
        delta=delta,
    )


def _measure_outcome(found: RecipeDecision, truth: float) -> tuple[float, ...]:
    """Return coverage, support, refutation, half width of the 95 % interval and its df."""
    decision = found.decision
    if decision.bounds_at is None or found.df is None:
        raise ValueError(f"a layout of the simulation can't be decided: {decision.reason}")
    low, high = decision.bounds_at(CONFIDENCE)
    if low is None or high is None:
        raise ValueError(f"a layout of the simulation has no interval: {decision.reason}")
    return (
        float(low <= truth <= high),
        float(decision.verdict is Verdict.SUPPORTED),
        float(decision.verdict is Verdict.REFUTED),
        (high - low) / 2,
        found.df,
    )


def _rate(hits: np.ndarray) -> dict[str, object]:
    low, high = wilson_interval(float(hits.sum()), len(hits))
    return {"rate": round(float(hits.mean()), 4), "interval": [round(low, 4), round(high, 4)]}


def run_recipes(num_grids: int, *, seed: int = 0) -> dict[str, object]:
    """Return all rows with the settings of the simulation."""
    rows = [
        row
        for grids, layouts in all_rows()
        for row in simulate_layouts(grids, layouts, num_grids, seed=seed)
    ]
    return {
        "grids": num_grids,
        "questions_per_image": 3,
        "delta": DELTA,
        "alpha": ALPHA,
        "confidence": CONFIDENCE,
        "rows": rows,
        "power": simulate_power(num_grids, seed=seed),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the simulation, print the rows and optionally write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grids", type=int, default=2000, help="simulated grids (default: 2000)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    result = run_recipes(options.grids)
    json.dump(result, sys.stdout, indent=1)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
