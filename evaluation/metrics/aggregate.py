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
    MultipleChoiceAccuracy,
    VQAAccuracy,
    YesNoAccuracy,
)
from evaluation.metrics.baseline_tests import baseline_p_value
from evaluation.metrics.columns import PredictionColumns, has_value, mean_percent
from evaluation.metrics.vqa import is_unanimous
from evaluation.statistics.intervals import mean_interval, paired_difference

_SCORE_SUFFIXES = {
    Benchmark.DIRECT: {"accuracy": "", "accuracy_aware": "_aware"},
    Benchmark.OPEN: {"chrf": "", "anls": "_aware"},
    Benchmark.WILD: {"answered": ""},
}
"""Column suffixes of the metrics of benchmarks that only average their scores."""
_VQA_SUFFIXES = ("", "_lmms", "_aware")
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
    beats_blind: float | None = None
    """p-value of the paired one-sided test that the score exceeds `blind`, clustered by image."""
    beats_majority: float | None = None
    """p-value of the same test against `majority`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """The rows of one benchmark, kind and language, and the names of their metrics."""

    columns: PredictionColumns
    mask: np.ndarray
    prefix: str
    """Name of the benchmark and a slash; empty for the main benchmark."""
    kind: Benchmark
    language: str
    seed: int

    def name(self, metric: str, *, suffix: str = "") -> str:
        """Return the full name of a metric of this part."""
        return f"{self.prefix}{self.kind}{suffix}/{self.language}/{metric}"


def aggregate(table: pa.Table, *, seed: int) -> dict[str, MetricValue]:
    """Compute all metrics of a predictions table.

    The names are {vqa,vqa_lmms,vqa_aware,mc,capqa,da}/LANGUAGE/accuracy, open/LANGUAGE/{chrf,anls}
    and wild/LANGUAGE/answered. In addition there are the answer types (vqa, vqa_lmms, vqa_aware),
    type/QUESTION_TYPE (vqa, capqa), unanimous (vqa), accuracy_aware (da), unparsed (mc, capqa), f1,
    precision, recall and yes_ratio (capqa). Every kind has refusals and fidelity, and the kinds
    with reference answers attributable, accuracy_in_language and accuracy_any_language.
    fidelity/LANGUAGE and truncated/LANGUAGE cover all kinds.

    The benchmark of the first row is the main one; the names of the others begin with NAME/.

    Args:
        table: Predictions with the columns of `evaluation.benchmarks.predictions.SCHEMA`.
        seed: Seed of the bootstrap.
    """
    columns = PredictionColumns(table)
    metrics: dict[str, MetricValue] = {}
    for number, dataset in enumerate(dict.fromkeys(columns["dataset"])):
        prefix = f"{dataset}/" if number else ""
        in_dataset = columns["dataset"] == dataset
        for language in sorted(set(columns["language"][in_dataset])):
            in_language = in_dataset & (columns["language"] == language)
            for kind in Benchmark:
                mask = in_language & (columns["benchmark"] == kind.value)
                if mask.any():
                    part = _Part(
                        columns=columns,
                        mask=mask,
                        prefix=prefix,
                        kind=kind,
                        language=language,
                        seed=seed,
                    )
                    metrics |= _kind_metrics(part) | _vision_and_language_metrics(part)
            for name, column in (("fidelity", "is_in_language"), ("truncated", "is_truncated")):
                metrics |= _share(f"{prefix}{name}/{language}", columns, in_language, column, seed)
    return metrics


def _kind_metrics(part: _Part) -> dict[str, MetricValue]:
    if part.kind is Benchmark.VQA:
        return _vqa_metrics(part)
    if part.kind is Benchmark.MULTIPLE_CHOICE:
        return _multiple_choice_metrics(part)
    if part.kind is Benchmark.CAPTION_QA:
        return _yes_no_metrics(part) | _question_type_metrics(part)
    return {
        part.name(name): _score_metric(part, part.mask, suffix=suffix)
        for name, suffix in _SCORE_SUFFIXES[part.kind].items()
    }


def _vision_and_language_metrics(part: _Part) -> dict[str, MetricValue]:
    """Return what separates the image from the language, and knowledge from the reply language."""
    columns, mask = part.columns, part.mask
    metrics: dict[str, MetricValue] = {}
    for name, column in (("refusals", "is_refusal"), ("fidelity", "is_in_language")):
        metrics |= _share(part.name(name), columns, mask, column, part.seed)
    if part.kind is Benchmark.WILD:
        return metrics
    is_vqa = part.kind is Benchmark.VQA
    for suffix in _VQA_SUFFIXES if is_vqa else ("",):
        score = f"score{suffix}"
        if not np.isnan(columns[f"blind_{score}"][mask]).any():
            metrics[part.name("attributable", suffix=suffix)] = _attributable(part, score)
    normalised = "score_lmms" if is_vqa else "score"
    is_guided = ~has_value(columns["is_in_language"])
    faithful = mask & (is_guided | columns["is_in_language"].astype(bool))
    for name, column, selected in (
        ("accuracy_in_language", normalised, faithful),
        ("accuracy_any_language", "score_any_language", mask),
    ):
        if selected.any():
            metrics[part.name(name)] = _with_interval(
                columns,
                selected,
                value=mean_percent(columns[column][selected]),
                scores=columns[column][selected],
                seed=part.seed,
            )
    return metrics


def _attributable(part: _Part, score: str) -> MetricValue:
    """Return what the image contributes: the score minus the blind score, paired by item."""
    columns, mask = part.columns, part.mask
    interval = paired_difference(
        columns[score][mask],
        columns[f"blind_{score}"][mask],
        columns["image_key"][mask].astype(str),
        seed=part.seed,
    )
    return MetricValue(
        value=PERCENT * interval.value,
        ci_low=_percent(interval.low),
        ci_high=_percent(interval.high),
        n=interval.num_items,
        num_images=interval.num_clusters,
        beats_blind=baseline_p_value(columns, mask, score, "blind"),
    )


def _vqa_metrics(part: _Part) -> dict[str, MetricValue]:
    metrics: dict[str, MetricValue] = {}
    for suffix in _VQA_SUFFIXES:
        metrics |= _answer_type_metrics(part, suffix)
    metrics |= _question_type_metrics(part)
    columns, mask = part.columns, part.mask
    unanimous = np.array([is_unanimous(answers) for answers in columns["answers"][mask]])
    metrics[part.name("unanimous")] = MetricValue(
        value=mean_percent(unanimous),
        ci_low=None,
        ci_high=None,
        n=int(mask.sum()),
        num_images=len(set(columns["image_key"][mask])),
    )
    return metrics


def _question_type_metrics(part: _Part) -> dict[str, MetricValue]:
    metrics: dict[str, MetricValue] = {}
    columns, mask = part.columns, part.mask
    for question_type in sorted(set(columns["question_type"][mask])):
        # MLflow restricts the characters of metric names.
        cleaned = re.sub(r"[^\w.-]+", "_", question_type, flags=re.ASCII)
        name = part.name(f"type/{cleaned}")
        selected = mask & (columns["question_type"] == question_type)
        metrics[name] = _score_metric(part, selected)
    return metrics


def _answer_type_metrics(part: _Part, suffix: str) -> dict[str, MetricValue]:
    columns, mask = part.columns, part.mask
    answer_types = columns["answer_type"]
    accuracy = VQAAccuracy(sorted(set(answer_types[mask])))
    accuracy.update(columns[f"score{suffix}"][mask], answer_types[mask])
    metrics: dict[str, MetricValue] = {}
    for answer_type, value in accuracy.compute().items():
        name = part.name(_METRIC_NAMES.get(answer_type, answer_type), suffix=suffix)
        selected = mask if answer_type == "accuracy" else mask & (answer_types == answer_type)
        metrics[name] = _score_metric(part, selected, value=float(value), suffix=suffix)
    return metrics


def _multiple_choice_metrics(part: _Part) -> dict[str, MetricValue]:
    metric = MultipleChoiceAccuracy()
    metric.update(part.columns["score"][part.mask], part.columns["parsed"][part.mask])
    return _closed_question_metrics(part, metric.compute())


def _yes_no_metrics(part: _Part) -> dict[str, MetricValue]:
    columns, mask = part.columns, part.mask
    metric = YesNoAccuracy()
    metric.update(
        [None if reply is None else reply == "yes" for reply in columns["parsed"][mask]],
        [expected == "yes" for expected in columns["expected"][mask]],
    )
    values = metric.compute()
    metrics = _closed_question_metrics(part, values)
    num_items, num_images = int(mask.sum()), len(set(columns["image_key"][mask]))
    for name in _WITHOUT_INTERVAL:
        metrics[part.name(name)] = MetricValue(
            value=float(values[name]), ci_low=None, ci_high=None, n=num_items, num_images=num_images
        )
    return metrics


def _closed_question_metrics(
    part: _Part, values: Mapping[str, torch.Tensor]
) -> dict[str, MetricValue]:
    """Return the accuracies of replies and of likelihoods, and the share of unparsed replies."""
    unparsed = np.array([parsed is None for parsed in part.columns["parsed"][part.mask]])
    likeliest = part.columns["likeliest_score"][part.mask]
    likelihood = {}
    if not np.isnan(likeliest).any():
        metric = _with_interval(
            part.columns,
            part.mask,
            value=mean_percent(likeliest),
            scores=likeliest,
            seed=part.seed,
        )
        likelihood[part.name("likelihood")] = dataclasses.replace(
            metric,
            blind=part.columns.mean_score("blind_likeliest_score", part.mask),
            chance=part.columns.mean_score("chance_score", part.mask),
            beats_blind=baseline_p_value(part.columns, part.mask, "likeliest_score", "blind"),
        )
    return likelihood | {
        part.name("accuracy"): _score_metric(part, part.mask, value=float(values["accuracy"])),
        part.name("unparsed"): _with_interval(
            part.columns,
            part.mask,
            value=float(values["unparsed"]),
            scores=unparsed,
            seed=part.seed,
        ),
    }


def _score_metric(
    part: _Part, mask: np.ndarray, *, value: float | None = None, suffix: str = ""
) -> MetricValue:
    """Return a metric with its interval and its baselines; by default the mean of the scores."""
    columns, score = part.columns, f"score{suffix}"
    scores = columns[score][mask]
    value = mean_percent(scores) if value is None else value
    metric = _with_interval(columns, mask, value=value, scores=scores, seed=part.seed)
    return dataclasses.replace(
        metric,
        majority=columns.mean_score(f"majority_{score}", mask),
        blind=columns.mean_score(f"blind_{score}", mask),
        chance=columns.mean_score("chance_score", mask),
        beats_blind=baseline_p_value(columns, mask, score, "blind"),
        beats_majority=baseline_p_value(columns, mask, score, "majority"),
    )


def _share(
    name: str, columns: PredictionColumns, mask: np.ndarray, column: str, seed: int
) -> dict[str, MetricValue]:
    """Return the share of the rows with a value for which it is true; nothing if there are none."""
    rows = mask & has_value(columns[column])
    if not rows.any():
        return {}
    scores = columns[column][rows]
    interval = _with_interval(columns, rows, value=mean_percent(scores), scores=scores, seed=seed)
    return {name: interval}


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
        ci_low=_percent(interval.low),
        ci_high=_percent(interval.high),
        n=interval.num_items,
        num_images=interval.num_clusters,
    )


def _percent(end: float | None) -> float | None:
    """Return an end of an interval in percent; None if there are too few images for one."""
    return None if end is None else PERCENT * end
