"""From per-item predictions to named metrics, each with its interval and its baselines."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from evaluation.answers.language_id import is_in_language
from evaluation.benchmarks.items import Benchmark
from evaluation.metrics.choices import YesNoAccuracy
from evaluation.statistics.intervals import mean_interval

_PERCENT = 100.0
_TWO_SCORES = {
    Benchmark.DIRECT: {"accuracy": "", "accuracy_aware": "_aware"},
    Benchmark.OPEN: {"chrf": "", "anls": "_aware"},
}
_TYPE_NAMES = {"yes/no": "yes_no"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MetricValue:
    """One metric in percent; what does not apply is None."""

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    num_images: int
    majority: float | None = None
    """The best constant reply per answer type, which knows the answers."""
    blind: float | None = None
    """The same model with a blank image."""
    chance: float | None = None


class Columns:
    """The columns of a predictions table as arrays."""

    def __init__(self, table: pa.Table) -> None:
        """Take them out once."""
        self._arrays = {name: _to_array(table[name]) for name in table.column_names}

    def __getitem__(self, name: str) -> np.ndarray:
        """A column; missing numbers are nan."""
        return self._arrays[name]

    def mean(self, name: str, mask: np.ndarray) -> float | None:
        """Mean of a column in percent, None if it has gaps there."""
        values = self[name][mask]
        return None if np.isnan(values).any() else _PERCENT * float(values.mean())


def _to_array(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    values = column.to_pylist()
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def aggregate(table: pa.Table, *, seed: int) -> dict[str, MetricValue]:
    """All metrics of a predictions table, by name.

    Names: {vqa,vqa_aware,mc,capqa,da}/LANGUAGE/accuracy, open/LANGUAGE/{chrf,anls},
    wild/LANGUAGE/answered, then per
    answer type and type/QUESTION_TYPE (vqa), accuracy_aware (da), unparsed (mc, capqa), f1,
    precision, recall, yes_ratio (capqa);
    fidelity/LANGUAGE and truncated/LANGUAGE over all benchmarks.
    """
    columns = Columns(table)
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
    columns: Columns, mask: np.ndarray, benchmark: Benchmark, language: str, seed: int
) -> dict[str, MetricValue]:
    if benchmark is Benchmark.VQA:
        return _vqa_metrics(columns, mask, language, seed)
    prefix = f"{benchmark}/{language}"
    if benchmark in _TWO_SCORES:
        return {
            f"{prefix}/{name}": _score_metric(columns, mask, seed, f"{prefix}/{name}", suffix)
            for name, suffix in _TWO_SCORES[benchmark].items()
        }
    if benchmark is Benchmark.WILD:
        return {f"{prefix}/answered": _score_metric(columns, mask, seed, f"{prefix}/answered")}
    unparsed = np.array([parsed is None for parsed in columns["parsed"][mask]])
    metrics = {
        f"{prefix}/accuracy": _score_metric(columns, mask, seed, f"{prefix}/accuracy"),
        f"{prefix}/unparsed": _share(columns, mask, unparsed, seed, f"{prefix}/unparsed"),
    }
    if benchmark is Benchmark.CAPTION_QA:
        metrics |= _yes_no_metrics(columns, mask, prefix)
    return metrics


def _vqa_metrics(
    columns: Columns, mask: np.ndarray, language: str, seed: int
) -> dict[str, MetricValue]:
    metrics = {}
    for prefix, suffix in (("vqa", ""), ("vqa_aware", "_aware")):
        for part_name, part in _parts(columns, mask, with_question_types=not suffix):
            name = f"{prefix}/{language}/{part_name}"
            metrics[name] = _score_metric(columns, part, seed, name, suffix)
    return metrics


def _parts(
    columns: Columns, mask: np.ndarray, *, with_question_types: bool
) -> Iterator[tuple[str, np.ndarray]]:
    yield "accuracy", mask
    for answer_type in sorted(set(columns["answer_type"][mask])):
        name = _TYPE_NAMES.get(answer_type, answer_type)
        yield name, mask & (columns["answer_type"] == answer_type)
    if with_question_types:
        for question_type in sorted(set(columns["question_type"][mask])):
            # MLflow allows few characters in a metric's name.
            name = re.sub(r"[^\w.-]+", "_", question_type, flags=re.ASCII)
            yield f"type/{name}", mask & (columns["question_type"] == question_type)


def _score_metric(
    columns: Columns, mask: np.ndarray, seed: int, name: str, suffix: str = ""
) -> MetricValue:
    metric = _share(columns, mask, columns[f"score{suffix}"][mask], seed, name)
    return dataclasses.replace(
        metric,
        majority=columns.mean(f"majority_score{suffix}", mask),
        blind=columns.mean(f"blind_score{suffix}", mask),
        chance=columns.mean("chance_score", mask),
    )


def _share(
    columns: Columns, mask: np.ndarray, values: np.ndarray, seed: int, name: str
) -> MetricValue:
    images = columns["image_key"][mask].astype(str)
    interval = mean_interval(values.astype(np.float64), images, seed=seed, names=(name,))
    return MetricValue(
        value=_PERCENT * interval.value,
        ci_low=_PERCENT * interval.low,
        ci_high=_PERCENT * interval.high,
        n=interval.num_items,
        num_images=interval.num_clusters,
    )


def _yes_no_metrics(columns: Columns, mask: np.ndarray, prefix: str) -> dict[str, MetricValue]:
    """Ratios over random denominators, given without an interval."""
    metric = YesNoAccuracy()
    metric.update(
        [None if reply is None else reply == "yes" for reply in columns["parsed"][mask]],
        [expected == "yes" for expected in columns["expected"][mask]],
    )
    num_items, num_images = int(mask.sum()), len(set(columns["image_key"][mask]))
    return {
        f"{prefix}/{name}": MetricValue(
            value=float(value), ci_low=None, ci_high=None, n=num_items, num_images=num_images
        )
        for name, value in metric.compute().items()
        if name in ("f1", "precision", "recall", "yes_ratio")
    }


def _reply_metrics(
    columns: Columns, mask: np.ndarray, language: str, seed: int
) -> dict[str, MetricValue]:
    """What holds for replies to any benchmark: their language, and whether they were cut."""
    faithful = np.array(
        [is_in_language(found, language) for found in columns["language_identified"][mask]]
    )
    truncated = columns["is_truncated"][mask]
    return {
        f"{name}/{language}": _share(columns, mask, values, seed, f"{name}/{language}")
        for name, values in (("fidelity", faithful), ("truncated", truncated))
    }
