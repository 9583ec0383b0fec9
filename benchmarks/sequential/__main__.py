"""Compare sequential grids with full grids on simulated surfaces with known truth.

    python -m benchmarks.sequential --surfaces 1000 --json docs/benchmarks/sequential.json

Every surface is one of twelve cells (six shares, text-only data off and on) from families that the
fit does not contain (`surfaces.py`). The claims are those of `mix_ablation`: a share of 20 % keeps
90 % of the best, without and with text-only data, and text-only data help on average over the
shares. Cells cost the same. Counted are the verdicts that equal those of the full grid at the same
level, the trained cells, measurements inside their 90 % prediction intervals, and wrong verdicts.
The cases with a peak show what happens if the surface is wrong: one share is 8 points better than
its neighbours.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.sequential.surfaces import (
    SHARES,
    Benchmark,
    axes,
    draw_observations,
    draw_peaked_values,
    draw_values,
)
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
from evaluation.statistics.surfaces.cell_surface import SurfacePrior

BENCHMARKS = {
    "373 images": Benchmark(num_clusters=373, error=0.0175, correlation=0.55),
    "5,000 images": Benchmark(num_clusters=5000, error=0.006, correlation=0.55),
}
"""The embedded benchmark as measured, and one of the size of public ones."""
_CLAIMS = ("shares", "shares and text", "shares with a peak")
_NUM = 2 * len(SHARES)
_SETTINGS = [list(range(len(SHARES))), list(range(len(SHARES), _NUM))]


def claims_of(names: str) -> tuple[ContrastClaim, ...]:
    """Return the claims of a case: `shares`, or `shares and text`."""
    found = [
        within_best(
            f"enough {at + 1}", [points[1]], [[p] for p in points if p != points[1]], _NUM,
            Allowance(kept=0.9),
        )
        for at, points in enumerate(_SETTINGS)
    ]  # fmt: skip
    if "text" in names:
        without, with_text = ([[point] for point in points] for points in _SETTINGS)
        found.append(mean_difference("text", with_text, without, _NUM, Allowance()))
    return tuple(found)


def simulate(names: str, benchmark: Benchmark, number: int, seed: int) -> list[dict[str, object]]:
    """Run sequential grids on some surfaces and return what they trained and decided."""
    claims = claims_of(names)
    study = SequentialStudy(
        prior=SurfacePrior.of(CellAxes.of(axes())),
        claims=claims,
        costs=lambda _point, _trained: 1.0,
        num_start=_NUM // 3,
    )
    start = study.start(noise_variance=benchmark.error**2)
    df, found = benchmark.num_clusters - 1.0, list[dict[str, object]]()
    for at in range(number):
        draw = draw_peaked_values if "peak" in names else draw_values
        values_P = draw(named_rng(seed, "surface", at))
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
    same = np.array([one["same"] for one in found])
    inside = np.concatenate([np.array(one["inside"], dtype=bool) for one in found])
    counts = {
        "same verdict, per claim": same.ravel(),
        "all verdicts the same": same.all(axis=1),
        "at most half of the cells": cells <= _NUM // 2,
        "all the same with at most half": same.all(axis=1) & (cells <= _NUM // 2),
        "any wrong verdict": np.array([one["wrong"] for one in found]),
        "any wrong verdict of the full grid": np.array([one["full_wrong"] for one in found]),
        "inside the 90 % interval": inside,
    }
    rates = {}
    print(f"{case}: {len(found)} surfaces, {cells.mean():.2f} of {_NUM} cells on average")
    for name, hits in counts.items():
        low, high = wilson_interval(int(hits.sum()), len(hits))
        rates[name] = {"rate": float(hits.mean()), "n": len(hits), "interval": [low, high]}
        print(f"  {name}: {hits.mean():.1%} of {len(hits)} ({low:.1%} to {high:.1%})", flush=True)
    quantiles = [int(q) for q in np.quantile(cells, [0.05, 0.5, 0.95])]
    return {"surfaces": len(found), "mean_cells": float(cells.mean()),
            "cells_5_50_95": quantiles, "rates": rates}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate all cases and optionally write the rates to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cases = {f"{names}, {size}": (names, benchmark)
             for names in _CLAIMS for size, benchmark in BENCHMARKS.items()}  # fmt: skip
    parser.add_argument("--surfaces", type=int, default=1000, help="per case (default: 1000)")
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rates of these cases to this file")
    options = parser.parse_args(arguments)
    path: Path | None = options.json
    rows = json.loads(path.read_text()) if path is not None and path.is_file() else {}
    for case in options.cases:
        names, benchmark = cases[case]
        found = simulate(names, benchmark, options.surfaces, options.seed)
        rows[case] = summarise(case, found)
        if path is not None:
            atomic_write_text(path, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
