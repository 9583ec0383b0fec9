r"""Predict the score of a left-out training from the other trainings of a finished grid.

    python -m experiments.run --exp mix_ablation --name ten_seeds --seeds 10 \
        --only share20_s share60_s share100_s --set retention.tasks=[]
    python -m benchmarks.seed_prediction --exp mix_ablation --name ten_seeds \
        --json docs/benchmarks/seeds.json

For every training of a replicated cell, the other trainings give the 95 % prediction interval of
its mean score on the same questions: their mean, plus and minus the t quantile times
s * sqrt(1 + 1/K) for K others, where s^2 is the variance between trainings, pooled over all cells
as in `evaluation.statistics.trainings`. If the model of training variance holds, 95 % of the
left-out scores lie inside.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from evaluation.statistics.intervals import CONFIDENCE
from evaluation.statistics.small_samples import student_quantile
from evaluation.statistics.trainings.training_variance import (
    MIN_TRAINING_DF,
    SeedScores,
    training_variance,
)
from reporting.item_scores import common_scores, question_scores
from reporting.records import CellRecord, GridRecord, load_grid
from reporting.series import PANELS
from reporting.settings import SEED


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A left-out training, in percent."""

    metric: str
    cell: str
    seed: int
    score: float
    low: float
    high: float

    @property
    def is_inside(self) -> bool:
        """Return whether the prediction interval contains the score."""
        return self.low <= self.score <= self.high


def leave_one_out(metric: str, cells: Mapping[str, SeedScores]) -> Iterator[LeftOut]:
    """Yield a prediction for every training of the cells that have at least three.

    Args:
        metric: Name of the metric.
        cells: Scores of the replicated cells, by name.
    """
    for name, cell in cells.items():
        for at, seed in enumerate(cell.seeds):
            if len(cell.seeds) < MIN_TRAINING_DF + 1:
                continue
            others = dataclasses.replace(
                cell,
                seeds=cell.seeds[:at] + cell.seeds[at + 1 :],
                scores_KI=np.delete(cell.scores_KI, at, axis=0),
            )
            spread = training_variance([*{**cells, name: others}.values()])
            if spread is None:
                raise ValueError(f"cell {name} has {len(cell.seeds)} trainings; expected three")
            num_others = len(others.seeds)
            reach = student_quantile(CONFIDENCE, spread.df) * math.sqrt(
                spread.between * (1 + 1 / num_others)
            )
            centre = float(others.scores_KI.mean())
            yield LeftOut(
                metric=metric,
                cell=name,
                seed=seed,
                score=100 * float(cell.scores_KI[at].mean()),
                low=100 * (centre - reach),
                high=100 * (centre + reach),
            )


def grid_predictions(grid: GridRecord) -> list[LeftOut]:
    """Return the predictions for all panels of the report in both languages."""
    trainings: dict[str, list[CellRecord]] = {}
    for cell in grid.cells:
        name = cell.cell_id.rsplit("_s", 1)[0]
        trainings.setdefault(name, []).append(cell)
    found: list[LeftOut] = []
    for panel in PANELS:
        for language in (grid.target_language, grid.base_language):
            cells: dict[str, SeedScores] = {}
            if panel.query is None:
                continue
            for name, own in trainings.items():
                parts = [question_scores([cell], panel.query, language) for cell in own]
                if len(own) > 1 and all(part is not None and part.by_question for part in parts):
                    scores_KI, images_I = common_scores([p for p in parts if p is not None])
                    seeds = tuple(int(cell.axes.get(SEED) or 0) for cell in own)
                    cells[name] = SeedScores(seeds=seeds, scores_KI=scores_KI, clusters=images_I)
            found += leave_one_out(panel.metric_name(language), cells)
    return found


def main() -> None:
    """Print how many left-out trainings each metric predicts, and optionally write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("mlruns"), help="output folder of runs")
    parser.add_argument("--exp", required=True, help="name of the experiment")
    parser.add_argument("--profile", default="embedded", help="profile of the grid")
    parser.add_argument("--name", default="", help="folder of the grid, if not EXP-PROFILE")
    parser.add_argument("--json", type=Path, help="write the predictions to this file")
    options = parser.parse_args()
    found = grid_predictions(load_grid(options.root, options.exp, options.profile, options.name))
    for metric in dict.fromkeys(one.metric for one in found):
        own = [one for one in found if one.metric == metric]
        inside = sum(one.is_inside for one in own)
        width = sum(one.high - one.low for one in own) / len(own) / 2
        print(f"{metric}: {inside} of {len(own)} inside, interval +- {width:.1f} points")
    print(f"all: {sum(one.is_inside for one in found)} of {len(found)} inside")
    if options.json:
        rows = [{**dataclasses.asdict(one), "is_inside": one.is_inside} for one in found]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
