"""Predict a trained share from the weights interpolated between its two neighbours.

    python -m benchmarks.weight_interpolation --root mlruns --exp mix_ablation --out interpolated \
        --json docs/benchmarks/weight_interpolation.json

A cell between two trained shares would be cheap if the weights between theirs (connector and
language model, from the same initialisation and stage 1) answered as if they had been trained at
its share. Every cell of a finished grid that has neighbours on both sides is held out: the weights
between them are evaluated with the evaluation of the cell and compared with its measurement. Two
predictions that cost nothing are compared with it: the scores between those of the neighbours, and
the response surface through the cells of all other shares (target language only).

The interval of an error contains the choice of questions (paired, clustered by image) and the
variation between the three trainings. A prediction counts if the errors of all held-out cells are
as small as these intervals say (chi-square test at 5 %). As a control variate, the interpolated
weights would have to explain scores per question beyond what those of the neighbours explain.
"""

import argparse
import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from scipy import stats

from core.config import load_config, to_plain
from core.errors import CheckpointError, ConfigError
from core.io.files import atomic_write_text
from evaluation.benchmarks.items import load_benchmarks
from evaluation.benchmarks.predictions import PREDICTIONS_FILE, read_predictions
from evaluation.runner import EvaluationOptions, evaluate
from evaluation.statistics.resampling import total_clusters
from evaluation.statistics.small_samples import clustered_covariance
from models.weights import save_tensors
from pipeline.answerers import make_answerer
from pipeline.assemble import WEIGHTS, feature_folder
from pipeline.assemble_trained import assemble_trained
from pipeline.stages.evaluate import EvaluateStage
from reporting.records import CellRecord, GridRecord, load_grid
from reporting.sequential.grid_surface import GridSurface
from reporting.settings import SHARE

WEIGHTS_BETWEEN, SCORES_BETWEEN, SURFACE = "weights", "scores", "surface"
"""Names of the predictions."""
_QUANTILE = 1.645
"""Standard deviations on either side of a 90 % interval."""
_ALPHA = 0.05
_TRAINING_SD = 1.6
"""Points; standard deviation between seeds of the embedded profile."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """A trained cell and its neighbours, which differ from it in their share alone."""

    cell: CellRecord
    low: CellRecord
    high: CellRecord

    @property
    def weight(self) -> float:
        """Weight of the neighbour with the higher share."""
        low, high = self.low.target_share, self.high.target_share
        return (self.cell.target_share - low) / (high - low)

    def spread(self, training_sd: float) -> float:
        """Return the standard deviation of a prediction error due to the three trainings."""
        return training_sd * math.sqrt(1 + (1 - self.weight) ** 2 + self.weight**2)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CellPrediction:
    """A prediction of a held-out cell, in points of open questions."""

    value: float
    tolerance: float
    """Half the width of the 90 % interval of its error."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A held-out cell in one language and its predictions, in points of open questions."""

    cell: str
    language: str
    low_share: float
    """Share of the lower neighbour."""
    num_questions: int
    measured: float
    predicted: Mapping[str, CellPrediction]
    """By interpolated weights, by the scores of the neighbours, and by the response surface."""
    by_question_type: Mapping[str, tuple[float, float]]
    """Answer type, or kind of closed questions -> measured, and by interpolated weights."""
    correlation: float
    """Correlation of the scores per question with those of the interpolated weights."""
    explained_by_neighbours: float
    """Part of the variance of the mean that the neighbours' scores per question explain."""
    explained_with_weights: float
    """The same with those of the interpolated weights in addition."""

    def error(self, name: str) -> float:
        """Return the error of a prediction."""
        return self.predicted[name].value - self.measured

    def is_inside(self, name: str) -> bool:
        """Return whether the measurement is in the interval of a prediction."""
        return abs(self.error(name)) <= self.predicted[name].tolerance


def held_out(grid: GridRecord) -> Iterator[HeldOut]:
    """Yield every evaluated cell that has a neighbour with a lower and one with a higher share."""
    lines: dict[tuple[object, ...], list[CellRecord]] = {}
    for cell in grid.cells:
        if cell.evaluation is not None:
            others = tuple(sorted((k, str(v)) for k, v in cell.axes.items() if k != SHARE))
            lines.setdefault(others, []).append(cell)
    for cells in lines.values():
        cells.sort(key=lambda cell: cell.target_share)
        for low, cell, high in zip(cells, cells[1:], cells[2:], strict=False):
            yield HeldOut(cell=cell, low=low, high=high)


def interpolate(low: Path, high: Path, weight: float, target: Path) -> None:
    """Write the weights between two files of a training stage.

    Args:
        low: Weights with a factor of 1 - `weight`.
        high: Weights with a factor of `weight`.
        weight: A number in 0..1; 0 and 1 give the files themselves.
        target: File to write.

    Raises:
        CheckpointError: If the files have different tensors.
    """
    with safe_open(low, framework="pt") as first, safe_open(high, framework="pt") as second:
        names = sorted(first.keys())
        if names != sorted(second.keys()):
            raise CheckpointError(f"{low} and {high} have different tensors; train one model")
        mixed = {}
        for name in names:
            a, b = first.get_tensor(name), second.get_tensor(name)
            if a.shape != b.shape:
                raise CheckpointError(f"{name} is {tuple(a.shape)} in {low}, not as in {high}")
            mixed[name] = (a.double() * (1 - weight) + b.double() * weight).to(a.dtype)
    save_tensors(target, mixed)


def answer(found: HeldOut, out: Path) -> Path:
    """Evaluate the weights between two neighbours, and return the file of predictions.

    A file of an earlier call is kept.

    Args:
        found: The held-out cell, whose evaluation is repeated.
        out: Folder for the evaluations.

    Raises:
        ConfigError: If the cell has no cached features or the model has no stage 2.
    """
    folder = out / found.cell.cell_id
    if (folder / PREDICTIONS_FILE).is_file():
        return folder / PREDICTIONS_FILE
    stages = found.cell.stages
    if "features" not in stages or "instruct" not in stages:
        raise ConfigError(f"{found.cell.cell_id} has no cached features or no stage 2")
    stage = load_config(EvaluateStage, stages["evaluate"].folder / "spec.yaml")
    with tempfile.TemporaryDirectory() as temporary:
        weights = [cell.stages["instruct"].folder / "result" / WEIGHTS
                   for cell in (found.low, found.high)]  # fmt: skip
        interpolate(weights[0], weights[1], found.weight, Path(temporary) / WEIGHTS)
        parts = assemble_trained(
            stage.model,
            features=feature_folder(stages["features"].folder / "result"),
            tuning=stage.tuning,
            policy=stage.policy,
            trained=[Path(temporary)],
        )
    parts.model.eval()
    settings = stage.settings
    answerer = make_answerer(parts, batch_size=settings.batch_size, limits=settings.limits)
    options = EvaluationOptions.from_config(
        settings, blind=settings.blind, guided_choice=settings.guided_choice
    )
    items = load_benchmarks(map(Path, stage.benchmarks), languages=stage.languages)
    folder.mkdir(parents=True, exist_ok=True)
    evaluate(answerer, items, options, output_folder=folder)
    return folder / PREDICTIONS_FILE


def compare(
    found: HeldOut, predictions: Path, language: str, *, training_sd: float = _TRAINING_SD
) -> Comparison:
    """Compare the predictions of a held-out cell with its measurement.

    Args:
        found: The held-out cell.
        predictions: Replies of the interpolated weights.
        language: Language of the questions.
        training_sd: Standard deviation between trainings, in points.
    """
    paths = [found.cell.stages["evaluate"].predictions, predictions]
    paths += [cell.stages["evaluate"].predictions for cell in (found.low, found.high)]
    tables = [_read_columns(path, language) for path in paths]
    own = tables[0]
    is_open = own["benchmark"] == "vqa"
    kept = [table["score"][is_open].astype(np.float64) for table in tables]
    measured_I, weights_I, low_I, high_I = kept
    scores_I = (1 - found.weight) * low_I + found.weight * high_I
    images_I = own["image_key"][is_open]
    spread = found.spread(training_sd)
    predicted = {
        name: CellPrediction(
            value=100 * float(values_I.mean()),
            tolerance=_QUANTILE
            * math.hypot(100 * _standard_error(values_I - measured_I, images_I), spread),
        )
        for name, values_I in ((WEIGHTS_BETWEEN, weights_I), (SCORES_BETWEEN, scores_I))
    }
    types = np.where(is_open, own["answer_type"], own["benchmark"])
    by_type = {}
    for name in sorted(set(types.tolist())):
        rows = types == name
        by_type[name] = tuple(
            100 * float(table["score"][rows].astype(np.float64).mean()) for table in tables[:2]
        )
    return Comparison(
        cell=found.cell.cell_id,
        language=language,
        low_share=found.low.target_share,
        num_questions=int(is_open.sum()),
        measured=100 * float(measured_I.mean()),
        predicted=predicted,
        by_question_type=by_type,
        correlation=float(np.corrcoef(measured_I, weights_I)[0, 1]),
        explained_by_neighbours=_explained(measured_I, [low_I, high_I], images_I),
        explained_with_weights=_explained(measured_I, [low_I, high_I, weights_I], images_I),
    )


def add_surface(grid: GridRecord, rows: Sequence[Comparison]) -> list[Comparison]:
    """Add what the response surface through the cells of other shares predicts.

    It concerns the target language only. Cells of the same share with another setting are left out,
    because the other predictions do not use them.
    """
    found = list[Comparison]()
    for row in rows:
        if row.language != grid.target_language:
            found.append(row)
            continue
        share = next(c.target_share for c in grid.cells if c.cell_id == row.cell)
        kept = [c for c in grid.cells if c.cell_id == row.cell or c.target_share != share]
        surface = GridSurface(dataclasses.replace(grid, cells=tuple(kept)))
        one = next(c.predicted for c in surface.validate().cells if c.cell_id == row.cell)
        added = CellPrediction(value=100 * one.value, tolerance=50 * (one.high - one.low))
        found.append(dataclasses.replace(row, predicted={**row.predicted, SURFACE: added}))
    return found


def summarise(rows: Sequence[Comparison]) -> dict[str, dict[str, object]]:
    """Return the errors of every prediction, and whether it counts.

    The keys are languages, and languages for the cells whose lower neighbour has a share above 0.
    """
    found: dict[str, dict[str, object]] = {}
    for language in dict.fromkeys(row.language for row in rows):
        own = [row for row in rows if row.language == language]
        for key, part in (
            (language, own),
            (f"{language}, above 0", [row for row in own if row.low_share > 0]),
        ):
            if part:
                found[key] = {name: _gate(part, name) for name in part[0].predicted}
    return found


def _gate(rows: Sequence[Comparison], name: str) -> dict[str, object]:
    """Return mean error, root mean square error, coverage, and whether the prediction counts."""
    errors = np.array([row.error(name) for row in rows])
    spreads = np.array([row.predicted[name].tolerance for row in rows]) / _QUANTILE
    p_value = float(stats.chi2.sf(np.square(errors / spreads).sum(), len(rows)))
    return {
        "mean_error": float(errors.mean()),
        "rmse": float(np.sqrt(np.square(errors).mean())),
        "num_inside": sum(row.is_inside(name) for row in rows),
        "num_cells": len(rows),
        "p_value": p_value,
        "counts": p_value >= _ALPHA,
    }


def _standard_error(values_I: np.ndarray, images_I: np.ndarray) -> float:
    return float(np.sqrt(clustered_covariance(total_clusters(values_I, images_I))[0, 0]))


def _explained(
    values_I: np.ndarray, predictors: Sequence[np.ndarray], images_I: np.ndarray
) -> float:
    """Return the part of the clustered variance of a mean that linear predictors explain."""
    design = np.column_stack([np.ones(len(values_I)), *predictors])
    slopes = np.linalg.lstsq(design, values_I, rcond=None)[0]
    left = _standard_error(values_I - design @ slopes, images_I)
    return float(1 - (left / _standard_error(values_I, images_I)) ** 2)


def _read_columns(path: Path, language: str) -> dict[str, np.ndarray]:
    """Return the rows of the main benchmark in a language, in the order of their questions."""
    table = read_predictions(path)
    names = ("dataset", "benchmark", "question_id", "language", "answer_type", "image_key", "score")
    columns = {name: np.array(table[name].to_pylist(), dtype=object) for name in names}
    rows = np.flatnonzero(
        (columns["dataset"] == columns["dataset"][0]) & (columns["language"] == language)
    )
    keys = [f"{columns['benchmark'][at]} {columns['question_id'][at]}" for at in rows]
    rows = rows[np.argsort(keys, kind="stable")]
    return {name: values[rows] for name, values in columns.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every comparison and the summary, and optionally write them to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("mlruns"))
    parser.add_argument("--exp", default="mix_ablation")
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--name", default="")
    parser.add_argument("--out", type=Path, required=True, help="folder for the evaluations")
    parser.add_argument("--json", type=Path, help="write the comparisons to this file")
    options = parser.parse_args(arguments)
    grid = load_grid(options.root, options.exp, options.profile, options.name)
    rows = list[Comparison]()
    for found in held_out(grid):
        predictions = answer(found, options.out)
        for language in (grid.target_language, grid.base_language):
            rows.append(compare(found, predictions, language))
            print(json.dumps(to_plain(rows[-1])), flush=True)
    rows = add_surface(grid, rows)
    summary = summarise(rows)
    print(json.dumps(summary, indent=1))
    if options.json:
        content = {"summary": summary, "cells": to_plain(rows)}
        atomic_write_text(options.json, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
