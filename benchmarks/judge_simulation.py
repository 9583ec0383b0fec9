"""Check prediction-powered intervals on simulated judgements with known truth.

    python -m benchmarks.judge_simulation --grids 2000

Each simulated comparison has 2,000 questions in images of 1 to 8 questions. People judge a random
200 of them as first, second or tie; the judge judges all, in five steps, with noise of its own and
a constant bias. The rows differ in that noise. They report Cohen's kappa of judge and people, how
often the 95 % interval covers the truth, and its median width over that of people alone.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.rng import named_rng
from evaluation.statistics.intervals import Interval, wilson_interval
from evaluation.statistics.ratings.agreement import cohen_kappa
from evaluation.statistics.ratings.linearised import NO_RATER, Ratings, linearise_mean
from evaluation.statistics.ratings.prediction_powered import powered_mean

NOISES = (0.1, 0.2, 0.3, 0.45, 0.7, 1.2)
_TIE_LIMIT = 0.3
_BIAS = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgeDesign:
    """One row of the simulation."""

    judge_noise: float
    """Standard deviation of the judge's noise; that of the quality difference is 1."""
    human_noise: float = 0.1
    """Standard deviation of the noise of people."""
    num_questions: int = 2000
    num_labelled: int = 200
    mean: float = 0.1
    """Mean quality difference of the two systems."""


def simulate_row(design: JudgeDesign, *, num_grids: int, seed: int) -> dict[str, float]:
    """Return coverage, median ratio of widths and median kappa over many comparisons."""
    truth = _true_mean(design, seed)
    covered = covered_alone = 0
    ratios, kappas = [], []
    for grid in range(num_grids):
        rng = named_rng(seed, "simulated judge", grid)
        human, judge, images = _draw(design, design.num_questions, rng)
        chosen = rng.permutation(design.num_questions)[: design.num_labelled]
        clusters = images.astype(str)
        ratings = Ratings(
            values_J=human[chosen],
            items_J=np.arange(len(chosen)),
            clusters_J=clusters[chosen],
            raters_J=np.full(len(chosen), NO_RATER),
        )
        powered = powered_mean(judge, clusters, judge[chosen], ratings).interval()
        alone = linearise_mean(ratings).estimate(len(np.unique(clusters[chosen]))).interval()
        covered += _covers(powered, truth)
        covered_alone += _covers(alone, truth)
        ratios.append(_width(powered) / _width(alone))
        if grid < 20:
            kappa = cohen_kappa(human[chosen], np.sign(judge[chosen]), clusters[chosen])
            kappas.append(0.0 if kappa is None else kappa.value)
    low, high = wilson_interval(covered, num_grids)
    return {
        "judge_noise": design.judge_noise,
        "kappa": float(np.median(kappas)),
        "coverage": covered / num_grids,
        "coverage_low": low,
        "coverage_high": high,
        "coverage_of_people_alone": covered_alone / num_grids,
        "width_ratio": float(np.median(ratios)),
    }


def _draw(
    design: JudgeDesign, num_questions: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the values of people and of the judge and the image of every question."""
    images = np.repeat(np.arange(num_questions), rng.integers(1, 9, num_questions))[:num_questions]
    quality = design.mean + np.sqrt(0.3) * rng.standard_normal(num_questions)[images]
    quality += np.sqrt(0.7) * rng.standard_normal(num_questions)
    seen = quality + design.human_noise * rng.standard_normal(num_questions)
    human = np.sign(seen) * (np.abs(seen) > _TIE_LIMIT)
    judged = quality + _BIAS + design.judge_noise * rng.standard_normal(num_questions)
    judge = np.sign(judged) * np.digitize(np.abs(judged), [_TIE_LIMIT, 1.0]) / 2
    return human, judge, images


def _true_mean(design: JudgeDesign, seed: int) -> float:
    rng = named_rng(seed, "true mean of people")
    return float(_draw(design, 2_000_000, rng)[0].mean())


def _covers(interval: Interval, truth: float) -> bool:
    low, high = interval.low, interval.high
    return low is not None and high is not None and low <= truth <= high


def _width(interval: Interval) -> float:
    if interval.low is None or interval.high is None:
        raise ValueError("too few images for an interval; simulate more questions")
    return interval.high - interval.low


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the simulation, print its rows and optionally write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grids", type=int, default=2000, help="comparisons a row (default: 2000)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    rows = []
    for noise in NOISES:
        row = simulate_row(JudgeDesign(judge_noise=noise), num_grids=options.grids, seed=0)
        rows.append(row)
        print("  ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)
    if options.json:
        content = {"grids": options.grids, "design": dataclasses.asdict(JudgeDesign(judge_noise=0))}
        options.json.write_text(json.dumps(content | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
