"""Compare sequential grids with full grids on simulated surfaces with known truth.

    python -m benchmarks.sequential --surfaces 1000 --json docs/benchmarks/sequential.json

Every surface is a grid of cells from families that the fit does not contain (`surfaces.py`), mostly
the twelve of `mix_ablation` (six shares, text-only data off and on). The claims are those of the
grid: a share of 20 % keeps 90 % of the best, text-only data help on average over the shares, and
with two language models also those about them. Cells cost the same. Counted are the verdicts that
equal those of the full grid at the same level, the trained cells, measurements inside their 90 %
prediction intervals, and wrong verdicts. The cases at the limit, without effect and with a peak are
the least favourable ones for wrong verdicts.

With `--tuning`, the surfaces with twelve cells come from other families and seeds, on which the
settings of sequential grids were chosen.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.sequential import surfaces
from benchmarks.sequential.surfaces import SHARES, TEXTS, Benchmark, draw_observations
from core.io.files import atomic_write_text
from core.rng import named_rng
from evaluation.statistics.decisions import Verdict
from evaluation.statistics.intervals import wilson_interval
from evaluation.statistics.sequential.claims import (
    ALL_VERDICTS,
    Allowance,
    ContrastClaim,
    mean_difference,
    within_best,
)
from evaluation.statistics.sequential.forecast import run_study
from evaluation.statistics.sequential.study import SequentialStudy
from evaluation.statistics.surfaces.axes import CellAxes

BENCHMARKS = {
    "373 images": Benchmark(num_clusters=373, error=0.0175, correlation=0.55),
    "5,000 images": Benchmark(num_clusters=5000, error=0.006, correlation=0.55),
}
"""The embedded benchmark as measured, and one of the size of public ones."""
_OWN_SHARE, _MARGIN = 0.2, 0.03
_TUNING_SEED = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A kind of grid, its claims, and the true surfaces on which it is simulated."""

    draw: Callable[[np.random.Generator], np.ndarray] = surfaces.draw_values
    claims: tuple[str, ...] = ("share",)
    """Claims about a share, about text-only data and about language models."""
    num_backbones: int = 1
    num_seeds: int = 1

    def points(self) -> list[dict[str, float | bool | int]]:
        """Return the axes of every training, the seeds of a cell one after the other."""
        return [
            {"backbone": backbone, **cell, "seed": seed}
            for backbone in range(self.num_backbones)
            for cell in surfaces.axes()
            for seed in range(self.num_seeds)
        ]


CASES = {
    "shares": Case(),
    "shares and text": Case(claims=("share", "text")),
    "shares and text, three trainings": Case(
        claims=("share", "text"), num_seeds=3, draw=surfaces.draw_values_of_three_trainings
    ),
    "full grid, two language models": Case(
        claims=("share", "text", "backbone"),
        num_backbones=2,
        draw=surfaces.draw_values_of_two_backbones,
    ),
    "shares at the limit": Case(draw=surfaces.draw_values_at_the_limit),
    "text without effect": Case(claims=("text",), draw=surfaces.draw_values_without_effect),
    "shares with a peak": Case(draw=surfaces.draw_peaked_values),
    "shares with a peak in one cell": Case(draw=surfaces.draw_values_with_one_peak),
}


def claims_of(case: Case) -> tuple[ContrastClaim, ...]:
    """Return the claims of a case, as the registered hypotheses state them."""
    points, found = case.points(), list[ContrastClaim]()
    number = len(points)

    def cells(**axes: float) -> list[list[int]]:
        """Return the trainings of every cell with some values."""
        at = [p for p, point in enumerate(points) if axes.items() <= point.items()]
        return [at[first : first + case.num_seeds] for first in range(0, len(at), case.num_seeds)]

    for backbone in range(case.num_backbones):
        halves = [cells(backbone=backbone, text_only=text) for text in TEXTS]
        for text, half in zip(TEXTS, halves, strict=True):
            if "share" in case.claims:
                others = [one for at, one in enumerate(half) if SHARES[at] != _OWN_SHARE]
                own = half[SHARES.index(_OWN_SHARE)]
                name = f"enough {backbone} {text}"
                found.append(within_best(name, own, others, number, Allowance(kept=0.9)))
        if "text" in case.claims:
            found.append(mean_difference(f"text {backbone}", *halves[::-1], number, Allowance()))
    if "backbone" in case.claims:
        pair = [cells(backbone=backbone) for backbone in range(2)]
        for name, is_two_sided in (("not needed", False), ("alike", True)):
            allowance = Allowance(margin=_MARGIN, is_two_sided=is_two_sided)
            found.append(mean_difference(name, *pair, number, allowance))
    return tuple(found)


def simulate(case: Case, benchmark: Benchmark, number: int, seed: int) -> list[dict[str, object]]:
    """Run sequential grids on some surfaces and return what they trained and decided."""
    claims = claims_of(case)
    axes = [{name: v for name, v in point.items() if name != "seed"} for point in case.points()]
    study = SequentialStudy(
        axes=CellAxes.of(axes), claims=claims, costs=lambda _point, _trained: 1.0
    )
    start = study.start(noise_variance=benchmark.error**2)
    df, found = benchmark.num_clusters - 1.0, list[dict[str, object]]()
    for at in range(number):
        values_P = case.draw(named_rng(seed, "surface", at))
        rng = named_rng(seed, "observations", at, benchmark.num_clusters)
        means_P, covariance_PP = draw_observations(rng, values_P, benchmark)
        outcome = run_study(study, means_P, covariance_PP, df=df, start=start)
        full, wrong, full_wrong = list[bool](), list[bool](), list[bool]()
        for claim in claims:
            row = claim.verdicts(means_P[None], covariance_PP, df, study.claim_alpha)
            verdict, is_true = (
                ALL_VERDICTS[int(row[0])],
                bool(claim.is_true(values_P[None])[0]),
            )
            full.append(outcome.verdicts[claim.name] is verdict)
            wrong.append(_is_wrong(outcome.verdicts[claim.name], is_true=is_true))
            full_wrong.append(_is_wrong(verdict, is_true=is_true))
        found.append(
            {
                "points": study.num_points,
                "cells": len(outcome.trained),
                "same": full,
                "wrong": any(wrong),
                "full_wrong": any(full_wrong),
                "inside": list(outcome.inside),
            }
        )
    return found


def _is_wrong(verdict: Verdict, *, is_true: bool) -> bool:
    return verdict is (Verdict.REFUTED if is_true else Verdict.SUPPORTED)


def summarise(case: str, found: Sequence[dict[str, object]]) -> dict[str, object]:
    """Print and return the rates of one case with their 95 % intervals."""
    cells = np.array([one["cells"] for one in found])
    points = int(str(found[0]["points"]))
    same = np.array([one["same"] for one in found])
    inside = np.concatenate([np.array(one["inside"], dtype=bool) for one in found])
    counts = {
        "same verdict, per claim": same.ravel(),
        "all verdicts the same": same.all(axis=1),
        "at most half of the cells": cells <= points // 2,
        "all the same with at most half": same.all(axis=1) & (cells <= points // 2),
        "any wrong verdict": np.array([one["wrong"] for one in found]),
        "any wrong verdict of the full grid": np.array([one["full_wrong"] for one in found]),
        "inside the 90 % interval": inside,
    }
    rates = {}
    print(f"{case}: {len(found)} surfaces, {cells.mean():.2f} of {points} cells on average")
    for name, hits in counts.items():
        low, high = wilson_interval(int(hits.sum()), len(hits))
        rates[name] = {"rate": float(hits.mean()), "n": len(hits), "interval": [low, high]}
        print(f"  {name}: {hits.mean():.1%} of {len(hits)} ({low:.1%} to {high:.1%})", flush=True)
    quantiles = [int(q) for q in np.quantile(cells, [0.05, 0.5, 0.95])]
    return {"surfaces": len(found), "cells": points, "mean_cells": float(cells.mean()),
            "cells_5_50_95": quantiles, "rates": rates}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate all cases and optionally write the rates to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cases = {f"{name}, {size}": (case, benchmark)
             for name, case in CASES.items() for size, benchmark in BENCHMARKS.items()}  # fmt: skip
    parser.add_argument("--surfaces", type=int, default=1000, help="per case (default: 1000)")
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--tuning", action="store_true", help="draw from the tuning families")
    parser.add_argument("--json", type=Path, help="write the rates of these cases to this file")
    options = parser.parse_args(arguments)
    path: Path | None = options.json
    rows = json.loads(path.read_text()) if path is not None and path.is_file() else {}
    for name in options.cases:
        case, benchmark = cases[name]
        seed = options.seed
        if options.tuning:
            if case.draw is not surfaces.draw_values:
                parser.error(f"--tuning: '{name}' has no tuning families; name --cases")
            case = dataclasses.replace(case, draw=surfaces.draw_tuning_values)
            seed += _TUNING_SEED
        found = simulate(case, benchmark, options.surfaces, seed)
        rows[name] = summarise(name, found)
        if path is not None:
            atomic_write_text(path, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
