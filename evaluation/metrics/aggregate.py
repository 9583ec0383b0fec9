"""Aggregation of per-item predictions to named metrics with intervals and baselines.

Every percentage is the result of a torchmetrics metric; the per-item scores serve the intervals.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from evaluation.benchmarks.items import Benchmark
from evaluation.metrics.accuracy import (
    PERCENT,
    MeanScore,
    MultipleChoiceAccuracy,
    VQAAccuracy,
    YesNoAccuracy,
)
from evaluation.metrics.reply_language import is_in_language
from evaluation.statistics.intervals import mean_interval

_SCORE_SUFFIXES = {
    Benchmark.DIRECT: {"accuracy": "", "accuracy_aware": "_aware"},
    Benchmark.OPEN: {"chrf": "", "anls": "_aware"},
    Benchmark.WILD: {"answered": ""},
}
"""Column suffixes of the metrics of benchmarks that only average their scores."""
_METRIC_NAMES = {"yes/no": "yes_no"}
_WITHOUT_INTERVAL = ("precision", "recall", "f1", "yes_ratio")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MetricValue:
    """One metric in percent; fields that do not apply are None."""

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    num_images: int
    majority: float | None = None
    """Score of the best constant reply per answer type, chosen with knowledge of the answers."""
    blind: float | None = None
    """Score of the same model with a blank image."""
    chance: float | None = None
    """Expected score of a random guess among the offered answers."""


class PredictionColumns:
    """The columns of a predictions table as arrays."""

    def __init__(self, table: pa.Table) -> None:
        """Convert all columns once."""
        self._arrays = {name: _to_array(table[name]) for name in table.column_names}

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column; missing numbers are nan."""
        return self._arrays[name]

    def mean_score(self, name: str, mask: np.ndarray) -> float | None:
        """Return the mean of the selected rows in percent, or None if a value is missing."""
        scores = self[name][mask]
        return None if np.isnan(scores).any() else _mean_score(scores)


def _to_array(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    values = column.to_pylist()
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def aggregate(table: pa.Table, *, seed: int) -> dict[str, MetricValue]:
    """Compute all metrics of a predictions table.

    The names are {vqa,vqa_aware,mc,capqa,da}/LANGUAGE/accuracy, open/LANGUAGE/{chrf,anls} and
    wild/LANGUAGE/answered. In addition there are the answer types (vqa, vqa_aware),
    type/QUESTION_TYPE (vqa), accuracy_aware (da), unparsed (mc, capqa), and f1, precision, recall
    and yes_ratio (capqa). fidelity/LANGUAGE and truncated/LANGUAGE cover all benchmarks.

    Args:
        table: Predictions with the columns of `evaluation.benchmarks.predictions.SCHEMA`.
        seed: Seed of the bootstrap.
    """
    columns = PredictionColumns(table)
    metrics: dict[str, MetricValue] = {}
    for language in sorted(set(columns["language"])):
        in_language = columns["language"] == language
        for benchmark in Benchmark:
            mask = in_language & (columns["benchmark"] == benchmark.value)
            if mask.any():
                metrics |= _benchmark_metrics(columns, mask, benchmark, language, seed)
        metrics |= _reply_metrics(columns, in_language, language, seed)
    return metrics


def _benchmark_metrics(
    columns: PredictionColumns, mask: np.ndarray, benchmark: Benchmark, language: str, seed: int
) -> dict[str, MetricValue]:
    prefix = f"{benchmark}/{language}"
    if benchmark is Benchmark.VQA:
        return _vqa_metrics(columns, mask, language, seed)
    if benchmark is Benchmark.MULTIPLE_CHOICE:
        return _multiple_choice_metrics(columns, mask, prefix, seed)
    if benchmark is Benchmark.CAPTION_QA:
        return _yes_no_metrics(columns, mask, prefix, seed)
    return {
        f"{prefix}/{name}": _score_metric(
            columns,
            mask,
            value=_mean_score(columns[f"score{suffix}"][mask]),
            suffix=suffix,
            seed=seed,
        )
        for name, suffix in _SCORE_SUFFIXES[benchmark].items()
    }


def _vqa_metrics(
    columns: PredictionColumns, mask: np.ndarray, language: str, seed: int
) -> dict[str, MetricValue]:
    official = _answer_type_metrics(columns, mask, f"vqa/{language}", "", seed)
    for question_type in sorted(set(columns["question_type"][mask])):
        # MLflow restricts the characters of metric names.
        part = re.sub(r"[^\w.-]+", "_", question_type, flags=re.ASCII)
        name = f"vqa/{language}/type/{part}"
        selected = mask & (columns["question_type"] == question_type)
        value = _mean_score(columns["score"][selected])
        official[name] = _score_metric(columns, selected, value=value, seed=seed)
    return official | _answer_type_metrics(columns, mask, f"vqa_aware/{language}", "_aware", seed)


def _answer_type_metrics(
    columns: PredictionColumns, mask: np.ndarray, prefix: str, suffix: str, seed: int
) -> dict[str, MetricValue]:
    answer_types = columns["answer_type"]
    accuracy = VQAAccuracy(sorted(set(answer_types[mask])))
    accuracy.update(columns[f"score{suffix}"][mask], answer_types[mask])
    metrics = {}
    for part, value in accuracy.compute().items():
        name = f"{prefix}/{_METRIC_NAMES.get(part, part)}"
        selected = mask if part == "accuracy" else mask & (answer_types == part)
        metrics[name] = _score_metric(
            columns, selected, value=float(value), suffix=suffix, seed=seed
        )
    return metrics


def _multiple_choice_metrics(
    columns: PredictionColumns, mask: np.ndarray, prefix: str, seed: int
) -> dict[str, MetricValue]:
    metric = MultipleChoiceAccuracy()
    metric.update(columns["score"][mask], columns["parsed"][mask])
    return _closed_question_metrics(columns, mask, prefix, metric.compute(), seed)


def _yes_no_metrics(
    columns: PredictionColumns, mask: np.ndarray, prefix: str, seed: int
) -> dict[str, MetricValue]:
    metric = YesNoAccuracy()
    metric.update(
        [None if reply is None else reply == "yes" for reply in columns["parsed"][mask]],
        [expected == "yes" for expected in columns["expected"][mask]],
    )
    values = metric.compute()
    metrics = _closed_question_metrics(columns, mask, prefix, values, seed)
    num_items, num_images = int(mask.sum()), len(set(columns["image_key"][mask]))
    for name in _WITHOUT_INTERVAL:
        metrics[f"{prefix}/{name}"] = MetricValue(
            value=float(values[name]), ci_low=None, ci_high=None, n=num_items, num_images=num_images
        )
    return metrics


def _closed_question_metrics(
    columns: PredictionColumns,
    mask: np.ndarray,
    prefix: str,
    values: Mapping[str, torch.Tensor],
    seed: int,
) -> dict[str, MetricValue]:
    """Return the accuracy and the share of unparsed replies with their intervals."""
    unparsed = np.array([parsed is None for parsed in columns["parsed"][mask]])
    return {
        f"{prefix}/accuracy": _score_metric(
            columns, mask, value=float(values["accuracy"]), seed=seed
        ),
        f"{prefix}/unparsed": _with_interval(
            columns, mask, value=float(values["unparsed"]), scores=unparsed, seed=seed
        ),
    }


def _reply_metrics(
    columns: PredictionColumns, mask: np.ndarray, language: str, seed: int
) -> dict[str, MetricValue]:
    """Return the metrics of the replies to any benchmark: language fidelity and truncation."""
    faithful = np.array(
        [is_in_language(found, language) for found in columns["language_identified"][mask]]
    )
    truncated = columns["is_truncated"][mask]
    return {
        f"{name}/{language}": _with_interval(
            columns, mask, value=_mean_score(scores), scores=scores, seed=seed
        )
        for name, scores in (("fidelity", faithful), ("truncated", truncated))
    }


def _score_metric(
    columns: PredictionColumns,
    mask: np.ndarray,
    *,
    value: float,
    seed: int,
    suffix: str = "",
) -> MetricValue:
    """Return a metric with its interval and its baselines."""
    scores = columns[f"score{suffix}"][mask]
    metric = _with_interval(columns, mask, value=value, scores=scores, seed=seed)
    return dataclasses.replace(
        metric,
        majority=columns.mean_score(f"majority_score{suffix}", mask),
        blind=columns.mean_score(f"blind_score{suffix}", mask),
        chance=columns.mean_score("chance_score", mask),
    )


def _with_interval(
    columns: PredictionColumns,
    mask: np.ndarray,
    *,
    value: float,
    scores: np.ndarray,
    seed: int,
) -> MetricValue:
    images = columns["image_key"][mask].astype(str)
    interval = mean_interval(scores.astype(np.float64), images, seed=seed)
    return MetricValue(
        value=value,
        ci_low=None if interval.low is None else PERCENT * interval.low,
        ci_high=None if interval.high is None else PERCENT * interval.high,
        n=interval.num_items,
        num_images=interval.num_clusters,
    )


def _mean_score(scores: np.ndarray) -> float:
    metric = MeanScore()
    metric.update(scores)
    return float(metric.compute())
