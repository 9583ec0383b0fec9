"""Replay sequential grids on finished grids, one replay per seed and one of all seeds together.

    python -m benchmarks.sequential.replay --root mlruns --exp mix_ablation

The measurements of a finished grid are revealed one cell after the other, as if each were trained
when the sequential grid asks for it. Every cell costs the same. The verdicts are compared with
those of the complete grid, and the measurements with their 90 % prediction intervals. `--kinds`
measures the same claims on other kinds of questions.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.io.files import atomic_write_text
from evaluation.statistics.sequential.claims import ALL_VERDICTS
from evaluation.statistics.sequential.forecast import run_study
from evaluation.statistics.sequential.study import SequentialStudy
from evaluation.statistics.surfaces.cell_surface import Observed
from reporting.claims.hypotheses_schema import BENCHMARK_KINDS, ClaimKind
from reporting.claims.measures import Measurements
from reporting.claims.preregistration import load_registered
from reporting.records import GridRecord, load_grid
from reporting.sequential.grid_claims import GridClaims, PlannedCell, grid_claims, observe


def replays(grid: GridRecord, kinds: Sequence[ClaimKind] = ()) -> Iterator[dict[str, object]]:
    """Yield what a sequential grid would have trained and decided.

    Args:
        grid: A finished grid. Every complete seed is a grid of its own, and several are one more.
        kinds: Kinds of questions on which the claims are measured; empty for that of the claims.
    """
    values = Measurements(grid)
    every = [PlannedCell(cell_id=c.cell_id, axes=c.axes, fields=c.fields) for c in grid.cells]
    parts = [[cell for cell in every if cell.seed == s] for s in sorted({c.seed for c in every})]
    number = len({cell.setting for cell in every})
    # Replicates of some cells are no grid of their own.
    parts = [part for part in parts if len(part) == number]
    if len(parts) > 1:
        parts.append([cell for cell in every if any(cell in part for part in parts)])
    for cells in parts:
        claims = grid_claims(
            cells,
            load_registered(grid.folder),
            grid.common,
            target_language=grid.target_language,
            deciding_metric=grid.deciding_metric,
        )
        for kind in kinds or (claims.measure.kind,):
            is_own = kind is claims.measure.kind
            measure = (
                claims.measure if is_own else replace(claims.measure, kind=kind, column="score")
            )
            observed = observe(cells, values, measure)
            if observed is not None and len(observed.points) == len(cells):
                seeds = sorted({cell.seed for cell in cells})
                names = [cell.cell_id for cell in cells]
                found = {"grid": grid.name, "seeds": seeds, "kind": kind.value}
                yield found | replay(names, claims, observed)


def replay(names: Sequence[str], claims: GridClaims, observed: Observed) -> dict[str, object]:
    """Return what a sequential grid trains and decides if its cells have these measurements."""
    study = SequentialStudy(
        axes=claims.axes, claims=claims.claims, costs=lambda _point, _trained: 1.0
    )
    means_P, covariance_PP = observed.means_T, observed.covariance_TT
    start = study.start(noise_variance=float(np.diagonal(covariance_PP).mean()))
    outcome = run_study(study, means_P, covariance_PP, df=observed.df, start=start)
    full = {
        claim.name: ALL_VERDICTS[
            claim.verdicts(means_P[None], covariance_PP, observed.df, study.claim_alpha)[0]
        ].value
        for claim in claims.claims
    }
    return {
        "cells": len(names),
        "trained": [names[point] for point in outcome.trained],
        "verdicts": {name: verdict.value for name, verdict in outcome.verdicts.items()},
        "full": full,
        "inside": list(outcome.inside),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every replay, and optionally write them to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("mlruns"))
    parser.add_argument("--exp", default="mix_ablation")
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--name", default="")
    parser.add_argument("--kinds", nargs="+", type=ClaimKind, default=[], choices=BENCHMARK_KINDS)
    parser.add_argument("--json", type=Path, help="write the replays to this file")
    options = parser.parse_args(arguments)
    found = []
    grid = load_grid(options.root, options.exp, options.profile, options.name)
    for one in replays(grid, options.kinds):
        print(json.dumps(one), flush=True)
        found.append(one)
    if options.json:
        atomic_write_text(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
