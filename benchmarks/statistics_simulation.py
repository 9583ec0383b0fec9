"""Check the intervals and tests of the report on simulated grids with known truth.

    python -m benchmarks.statistics_simulation --grids 2000

Each simulated grid has the shape of the embedded one: images with several questions of correlated
difficulty, answered by six cells with known accuracies. The simulation counts how often a 95 %
interval covers the truth (one cell, a paired difference); how often TOST and non-inferiority
support a false claim (at the edge of the margin, the hardest case); how often a family of six such
claims with Holm's correction has at least one false support; and how often true claims are
supported.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.rng import named_rng
from evaluation.statistics.decisions import ALPHA, Verdict, equivalence, non_inferiority
from evaluation.statistics.intervals import mean_interval, paired_difference, wilson_interval
from evaluation.statistics.multiple_testing import apply_holm

NUM_CELLS = 6
DELTA = 0.03
_SPREAD = 0.18
"""Standard deviation of the ease of images."""
_OWN = 0.08
"""Standard deviation of the additional effect of a cell on an image."""


def simulate(
    rng: np.random.Generator, accuracies: Sequence[float], num_images: int, per_image: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return binary scores (cells, items) and the image of every item.

    Probabilities are the accuracy of the cell plus the ease of the image plus noise of both. The
    latter two have means of exactly 0 over the population, so the
    accuracy of the cell is the truth.
    """
    ease_P = rng.uniform(-1, 1, num_images) * _SPREAD * math.sqrt(3)
    own_CP = rng.uniform(-1, 1, (len(accuracies), num_images)) * _OWN * math.sqrt(3)
    chance_CP = np.asarray(accuracies)[:, None] + ease_P + own_CP
    if chance_CP.min() < 0 or chance_CP.max() > 1:
        raise ValueError(
            "these accuracies are too close to 0 or 1 for images of varying difficulty"
        )
    chance_CI = np.repeat(chance_CP, per_image, axis=1)
    scores_CI = (rng.random(chance_CI.shape) < chance_CI).astype(np.float64)
    return scores_CI, np.repeat(np.arange(num_images), per_image)


def one_grid(seed: int, *, num_images: int, per_image: int) -> dict[str, bool]:
    """Return which statements about one simulated grid hold."""
    rng = named_rng(seed, "simulated grid")
    base = 0.5
    # The second and third lie at the edges of the margin, the rest are equal to the first.
    accuracies = [base, base + DELTA, base - DELTA, base, base, base]
    scores, images = simulate(rng, accuracies, num_images, per_image)
    first, above, below, same = scores[0], scores[1], scores[2], scores[3]
    cell = mean_interval(first, images, seed=seed)
    difference = paired_difference(above, first, images, seed=seed)
    settings = {"delta": DELTA, "seed": seed}
    # Six claims of one report, all false at the edge of the margin.
    edge, _ = simulate(rng, [base] + [base - DELTA] * NUM_CELLS, num_images, per_image)
    family = [non_inferiority(other, edge[0], images, **settings) for other in edge[1:]]
    corrected = apply_holm(family)
    return {
        "interval of a cell holds the truth": cell.low <= base <= cell.high,
        "interval of a difference holds it": difference.low <= DELTA <= difference.high,
        "equivalence: false support": _supports(equivalence(above, first, images, **settings)),
        "non-inferiority: false support": _supports(
            non_inferiority(below, first, images, **settings)
        ),
        "six claims, uncorrected: a false support": any(map(_supports, family)),
        "six claims, Holm: a false support": any(map(_supports, corrected)),
        "equivalence: true support": _supports(equivalence(same, first, images, **settings)),
    }


def _supports(decision: object) -> bool:
    return getattr(decision, "verdict", None) is Verdict.SUPPORTED


def run(num_grids: int, *, num_images: int, per_image: int, seed: int = 0) -> dict[str, object]:
    """Return the rates over many grids with 95 % intervals."""
    counts: dict[str, int] = {}
    for at in range(num_grids):
        found = one_grid(seed + at, num_images=num_images, per_image=per_image)
        for name, is_true in found.items():
            counts[name] = counts.get(name, 0) + is_true
    rates = {
        name: {"rate": count / num_grids, "interval": wilson_interval(count, num_grids)}
        for name, count in counts.items()
    }
    return {
        "grids": num_grids,
        "images": num_images,
        "questions_per_image": per_image,
        "delta": DELTA,
        "alpha": ALPHA,
        "rates": rates,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the simulation, print the rates and optionally write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grids", type=int, default=2000, help="simulated grids (default: 2000)")
    parser.add_argument("--images", type=int, default=373, help="per grid (default: 373)")
    parser.add_argument("--questions", type=int, default=4, help="per image (default: 4)")
    parser.add_argument("--json", type=Path, help="write the rates to this file")
    options = parser.parse_args(arguments)
    result = run(options.grids, num_images=options.images, per_image=options.questions)
    for name, rate in result["rates"].items():  # type: ignore[attr-defined]
        low, high = rate["interval"]
        print(f"{name:45s} {rate['rate']:7.2%}   ({low:.2%} .. {high:.2%})")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
