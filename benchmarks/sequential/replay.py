"""Replay sequential grids on finished grids, one replay per seed.

    python -m benchmarks.sequential.replay --root mlruns --exp mix_ablation

The measurements of a finished grid are revealed one cell after the other, as if each were trained
when the sequential grid asks for it. Every cell costs the same. The verdicts are compared with
those of the complete grid, and the measurements with their 90 % prediction intervals.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.io.files import atomic_write_text
from evaluation.statistics.sequential.claims import ALL_VERDICTS
from evaluation.statistics.sequential.forecast import run_study
from evaluation.statistics.sequential.study import SequentialStudy
from evaluation.statistics.surfaces.cell_surface import SurfacePrior
from reporting.claims.measures import Measurements
from reporting.claims.preregistration import load_registered
from reporting.records import GridRecord, load_grid
from reporting.sequential.grid_claims import PlannedCell, grid_claims, observe


def replays(grid: GridRecord) -> Iterator[dict[str, object]]:
    """Yield what a sequential grid would have trained and decided, for every complete seed."""
    values = Measurements(grid)
    every = [PlannedCell(cell_id=c.cell_id, axes=c.axes, fields=c.fields) for c in grid.cells]
    for seed in sorted({cell.seed for cell in every}):
        cells = [cell for cell in every if cell.seed == seed]
        if len(cells) < len({cell.setting for cell in every}):
            continue  # replicates of some cells are no grid of their own
        claims = grid_claims(
            cells,
            load_registered(grid.folder),
            grid.common,
            target_language=grid.target_language,
            deciding_metric=grid.deciding_metric,
        )
        observed = observe(cells, values, claims.measure)
        if observed is None or len(observed.points) < len(cells):
            continue
        study = SequentialStudy(
            prior=SurfacePrior.of(claims.axes),
            claims=claims.claims,
            costs=lambda _point, _trained: 1.0,
            num_start=max(3, -(-len(cells) // 3)),
        )
        means_P, covariance_PP = observed.means_T, observed.covariance_TT
        noise = float(np.diagonal(covariance_PP).mean())
        outcome = run_study(
            study, means_P, covariance_PP, df=observed.df, start=study.start(noise_variance=noise)
        )
        full = {
            claim.name: ALL_VERDICTS[
                claim.verdicts(means_P[None], covariance_PP, observed.df, study.claim_alpha)[0]
            ].value
            for claim in claims.claims
        }
        yield {
            "grid": grid.name,
            "seed": seed,
            "cells": len(cells),
            "trained": [cells[point].cell_id for point in outcome.trained],
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
    parser.add_argument("--json", type=Path, help="write the replays to this file")
    options = parser.parse_args(arguments)
    found = []
    for one in replays(load_grid(options.root, options.exp, options.profile, options.name)):
        print(json.dumps(one), flush=True)
        found.append(one)
    if options.json:
        atomic_write_text(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
