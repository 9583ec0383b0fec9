"""Files of published benchmarks in tests: importing them, and scoring answers to them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.import_benchmark import main
from evaluation.answerers.base import ModelReply
from evaluation.benchmarks.items import BenchmarkItem, load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.runner import EvaluationOptions, evaluate
from tests.support.small_world import image


class Answerer:
    """Gives the correct answer, or the first letter."""

    def __init__(self, items: Sequence[BenchmarkItem], *, is_right: bool) -> None:
        prompts = load_prompts({item.language for item in items}, style="instructed")
        self._known = {}
        for item in items:
            right = item.answers[0] if item.answers else ""
            if item.correct_choice is not None:
                right = "ABCD"[item.correct_choice]
            self._known[prompts.question_text(item)] = right if is_right else "A"

    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        texts = [q.turns[0].content.removeprefix("<image>\n") for q in questions]
        return [ModelReply(text=self._known[t], num_tokens=1, is_truncated=False) for t in texts]


def run(folder: Path, recipe: str, *sources: str, more: Sequence[str] = ()) -> list[BenchmarkItem]:
    """Import files and return the items of the benchmark."""
    words = ["--recipe", recipe, "--name", recipe, "--out", str(folder), "--source", *sources]
    assert main([*words, *more]) == 0
    return load_benchmark(folder / f"{recipe}.manifest.json")


def scores(items: list[BenchmarkItem], folder: Path, *, is_right: bool = True) -> dict[str, float]:
    """Return the metrics of an evaluation in which all answers are right, or "A"."""
    options = EvaluationOptions(prompt_style="instructed", blind=False)
    result = evaluate(
        Answerer(items, is_right=is_right), items, options, output_folder=folder / "results"
    )
    return {name: metric.value for name, metric in result.metrics.items()}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows and return the file."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def embedded(seed: int) -> dict[str, Any]:
    """Return an image as a column of `datasets` holds it."""
    return {"bytes": image(seed), "path": f"{seed}.jpg"}
