"""Sensitivity of scores to the wording of the instruction.

A score depends on how the instruction is worded, and one wording is one sample of them. Questions
with a short answer, a choice, or yes or no are asked again with other styles of
`languages/*/prompts.yaml`. The first wording, `evaluate.prompt_style`, is the official one: all
other metrics, checks and claims use its replies only.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from evaluation.answerers.base import ModelReply
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.predictions import SCHEMA, write_predictions
from evaluation.benchmarks.prompting import PromptBook
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reasked import WORDED_KINDS
from evaluation.metrics.aggregate import MetricValue
from evaluation.metrics.columns import PredictionColumns
from evaluation.metrics.scorer import Scorer
from evaluation.statistics.intervals import (
    CONFIDENCE,
    Interval,
    difference_interval,
    mean_interval,
)

_FILE = "wordings.parquet"
_COLUMNS = (
    "dataset",
    "question_id",
    "benchmark",
    "language",
    "image_key",
    "prompt",
    "output",
    "parsed",
    "score",
    "score_lmms",
    "score_aware",
)
WORDING_SCHEMA = pa.schema(
    [pa.field("wording", pa.string(), nullable=False), *(SCHEMA.field(name) for name in _COLUMNS)]
)
_SUFFIXES = {Benchmark.VQA: ("", "_lmms", "_aware")}
_PERCENT = 100


def ask_wordings(
    ask: Callable[[Sequence[VisualQuestion]], Sequence[ModelReply]],
    items: Sequence[BenchmarkItem],
    books: Mapping[str, PromptBook],
    scorer: Scorer,
) -> pa.Table:
    """Ask and score the items of `WORDED_KINDS` with every wording.

    Args:
        ask: Returns one reply per question.
        items: The items.
        books: The prompts by name of the wording.
        scorer: Scores the replies.

    Returns:
        One row per wording and item, with the columns of the predictions of the same names.
    """
    asked = [item for item in items if item.benchmark in WORDED_KINDS]
    rows: list[dict[str, object]] = []
    for wording, book in books.items():
        replies = ask([book.question(item) for item in asked])
        for item, reply in zip(asked, replies, strict=True):
            score = scorer.score(item, reply.text)
            rows.append(
                {
                    "wording": wording,
                    "dataset": item.dataset,
                    "question_id": item.question_id,
                    "benchmark": item.benchmark.value,
                    "language": item.language,
                    "image_key": item.image_key,
                    "prompt": book.question_text(item),
                    "output": reply.text,
                    "parsed": score.parsed,
                    "score": score.score,
                    "score_lmms": score.score_lmms,
                    "score_aware": score.score_aware,
                }
            )
    return pa.Table.from_pylist(rows, schema=WORDING_SCHEMA)


def save_wordings(table: pa.Table, folder: Path) -> None:
    """Write the replies to a folder as wordings.parquet."""
    write_predictions(folder / _FILE, table)


def wording_metrics(
    predictions: pa.Table, wordings: pa.Table, official: str, *, seed: int
) -> dict[str, MetricValue]:
    """Compare the scores of all wordings for each benchmark, kind and language.

    The names are those of the accuracies, with wording/NAME (accuracy with each wording, the
    official one included), wordings_mean, wordings_lowest, wordings_highest and
    wordings_difference in place of `accuracy`. The difference is that of the best and the worst
    wording; its interval is paired by question, clustered by image, and corrected for the number
    of pairs of wordings (Bonferroni), because the pair is chosen by its difference.

    Args:
        predictions: The predictions with the official wording.
        wordings: Result of `ask_wordings`.
        official: Name of the official wording.
        seed: Seed of the resampling.
    """
    name_field = WORDING_SCHEMA.field("wording")
    first = predictions.append_column(name_field, pa.array([official] * len(predictions)))
    columns = PredictionColumns(pa.concat_tables([first.select(WORDING_SCHEMA.names), wordings]))
    names = dict.fromkeys(columns["wording"])
    keys = ("dataset", "benchmark", "language")
    groups = dict.fromkeys(zip(*(columns[key] for key in keys), strict=True))
    main = columns["dataset"][0]
    metrics: dict[str, MetricValue] = {}
    for dataset, kind, language in groups:
        if kind not in WORDED_KINDS:
            continue
        selected = columns["dataset"] == dataset
        selected &= (columns["benchmark"] == kind) & (columns["language"] == language)
        rows = {name: np.flatnonzero(selected & (columns["wording"] == name)) for name in names}
        images = columns["image_key"][rows[official]].astype(str)
        prefix = "" if dataset == main else f"{dataset}/"
        for suffix in _SUFFIXES.get(Benchmark(kind), ("",)):
            scores = {name: columns[f"score{suffix}"][own] for name, own in rows.items()}
            for metric, value in _compare(scores, images, seed):
                metrics[f"{prefix}{kind}{suffix}/{language}/{metric}"] = value
    return metrics


def _compare(
    scores: Mapping[str, np.ndarray], images: np.ndarray, seed: int
) -> Iterator[tuple[str, MetricValue]]:
    """Yield the metrics of one kind and language; all wordings have the items in one order."""
    for name, own in scores.items():
        yield f"wording/{name}", _metric(mean_interval(own, images, seed=seed))
    every_WI = np.stack(list(scores.values()))
    yield "wordings_mean", _metric(mean_interval(every_WI.mean(axis=0), images, seed=seed))
    means_W = every_WI.mean(axis=1)
    worst, best = int(means_W.argmin()), int(means_W.argmax())
    for name, chosen in (("wordings_lowest", worst), ("wordings_highest", best)):
        # No interval: the wording was chosen by its score.
        yield (
            name,
            MetricValue(
                value=_PERCENT * float(means_W[chosen]),
                ci_low=None,
                ci_high=None,
                n=len(images),
                num_images=len(np.unique(images)),
            ),
        )
    num_pairs = math.comb(len(scores), 2)
    difference = difference_interval(
        every_WI[best] - every_WI[worst],
        images,
        seed=seed,
        confidence=1 - (1 - CONFIDENCE) / num_pairs,
    )
    yield "wordings_difference", _metric(difference)


def _metric(interval: Interval) -> MetricValue:
    low, high = (None if end is None else _PERCENT * end for end in (interval.low, interval.high))
    return MetricValue(
        value=_PERCENT * interval.value,
        ci_low=low,
        ci_high=high,
        n=interval.num_items,
        num_images=interval.num_clusters,
    )
