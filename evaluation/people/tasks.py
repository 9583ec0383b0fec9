"""What people are asked: one pair of replies, or one translated item, each with its image."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.errors import DataError
from core.rng import named_rng
from evaluation.benchmarks.predictions import read_predictions

RESERVED = frozenset({"left", "right", "tie", "skip"})
"""Answers that are no system."""


class TaskKind(StrEnum):
    """The two kinds."""

    COMPARE = "compare"
    """Which of two replies is better."""
    VALIDATE = "validate"
    """Whether a translation holds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One question to a person."""

    task_id: str
    kind: TaskKind
    language: str
    image_key: str
    """Of a sample in the images' manifest; empty without an image."""
    question: str
    content: dict[str, str]
    """COMPARE: name of a system -> its reply. VALIDATE: `source`, `translation`."""

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @staticmethod
    def load(text: str) -> "Task":
        """Of JSON.

        Raises:
            DataError: not what `dump` wrote.
        """
        try:
            raw = json.loads(text)
            return Task(**{**raw, "kind": TaskKind(raw["kind"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"damaged annotation task: {error!r}") from error


def compare_tasks(
    first: Path, second: Path, names: tuple[str, str], *, language: str, most: int, seed: int = 0
) -> list[Task]:
    """Pairs of replies to the same questions; equal replies are left out, as nobody could choose.

    Args:
        first: predictions.parquet of one system.
        second: of the other.
        names: what they are called, in that order.
        language: of the questions.
        most: largest number of tasks, drawn by `seed`; 0 = all.
        seed: of the draw.

    Raises:
        DataError: files that don't hold the same questions, or no pair that differs.
    """
    if names[0] == names[1] or {*names} & RESERVED:
        raise DataError(
            f"systems called {' and '.join(names)}; name them apart, and not {sorted(RESERVED)}"
        )
    tables = [_rows(read_predictions(path), language) for path in (first, second)]
    if tables[0].keys() != tables[1].keys() or not tables[0]:
        raise DataError(
            f"{first} and {second} hold {len(tables[0])} and {len(tables[1])} questions in "
            f"'{language}' that are not the same (or none); compare cells of one benchmark"
        )
    pairs = [(key, tables[0][key], tables[1][key]) for key in sorted(tables[0])]
    tasks = [
        Task(
            task_id="/".join(key),
            kind=TaskKind.COMPARE,
            language=language,
            image_key=one["image_key"],
            question=one["prompt"],
            content={names[0]: one["output"], names[1]: other["output"]},
        )
        for key, one, other in pairs
        if one["output"].strip() != other["output"].strip()
    ]
    if not tasks:
        raise DataError(f"all {len(pairs)} replies of the two are the same")
    return _draw(tasks, most, seed)


def validate_tasks(path: Path, *, most: int, seed: int = 0) -> list[Task]:
    """Translated items of a JSONL file: id, language, source, translation, and if any image_key.

    Raises:
        DataError: a line that lacks something, or an id that appears twice.
    """
    tasks = list(_read_items(path))
    seen: set[str] = set()
    for task in tasks:
        if task.task_id in seen:
            raise DataError(f"{path}: id '{task.task_id}' appears twice")
        seen.add(task.task_id)
    if not tasks:
        raise DataError(f"{path} holds no items")
    return _draw(tasks, most, seed)


def _read_items(path: Path) -> Iterator[Task]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            yield Task(
                task_id=str(raw["id"]),
                kind=TaskKind.VALIDATE,
                language=str(raw["language"]),
                image_key=str(raw.get("image_key", "")),
                question=str(raw.get("question", "")),
                content={name: str(raw[name]) for name in ("source", "translation")},
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: {error!r}; expected JSON with id, language, source, "
                "translation"
            ) from error


def _rows(table: pa.Table, language: str) -> dict[tuple[str, str], dict[str, Any]]:
    columns = ["benchmark", "question_id", "language", "image_key", "prompt", "output"]
    return {
        (row["benchmark"], row["question_id"]): row
        for row in table.select(columns).to_pylist()
        if row["language"] == language
    }


def _draw(tasks: Sequence[Task], most: int, seed: int) -> list[Task]:
    order = named_rng(seed, "people").permutation(len(tasks))
    chosen = order[:most] if most else order
    return [tasks[i] for i in chosen]
