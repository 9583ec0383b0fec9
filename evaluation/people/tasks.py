"""Annotation tasks: comparisons of two replies, and reviews of translated items."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from core.errors import DataError
from core.io.reading import parse_json, read_text_file
from core.rng import named_rng
from evaluation.benchmarks.item_texts import parse_text

RESERVED = frozenset({"left", "right", "tie", "skip"})
"""Answers that can't be names of systems."""


class TaskKind(StrEnum):
    """Kinds of annotation tasks."""

    COMPARE = "compare"
    """Choose the better of two replies."""
    VALIDATE = "validate"
    """Accept, fix or reject a translation."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One annotation task."""

    task_id: str
    kind: TaskKind
    language: str
    image_key: str
    """Key of the sample whose image is shown; empty without an image."""
    question: str
    content: dict[str, str]
    """For COMPARE, the reply of each system by name. For VALIDATE, `source` and `translation`."""

    def dump(self) -> str:
        """Return the task as JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @staticmethod
    def load(text: str) -> "Task":
        """Parse a task from JSON.

        Raises:
            DataError: If the text was not written by `dump`.
        """
        try:
            raw = json.loads(text)
            return Task(**{**raw, "kind": TaskKind(raw["kind"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"damaged annotation task: {error!r}; create the database again"
            ) from error


def validate_tasks(path: Path, *, most: int, seed: int = 0) -> list[Task]:
    """Create reviews of the translated items of a JSON lines file.

    Args:
        path: File whose lines have id, language, source and translation, and optionally image_key
            and question.
        most: Maximum number of tasks, drawn at random; 0 for all.
        seed: Seed of the draw and of the order of the tasks.

    Raises:
        DataError: If the file has no items, a line lacks a field, or an id is not unique.
    """
    tasks = list(_read_translations(path))
    seen: set[str] = set()
    for task in tasks:
        if task.task_id in seen:
            raise DataError(f"{path}: id '{task.task_id}' appears twice; use unique ids")
        seen.add(task.task_id)
    if not tasks:
        raise DataError(f"{path} has no items; expected one JSON object per line")
    return _draw_tasks(tasks, most, seed)


def _read_translations(path: Path) -> Iterator[Task]:
    for number, line in enumerate(read_text_file(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            raw = parse_json(line)
            fields = {name: raw[name] for name in ("id", "language", "source", "translation")}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where}: {error!r}; expected JSON with id, language, source, translation"
            ) from error
        # Both are optional: a text may have no image and no question.
        fields |= {name: raw[name] for name in ("image_key", "question") if raw.get(name)}
        texts = {
            name: parse_text(value, f"{where}, {name}", is_asked=False)
            for name, value in fields.items()
        }
        yield Task(
            task_id=texts["id"],
            kind=TaskKind.VALIDATE,
            language=texts["language"],
            image_key=texts.get("image_key", ""),
            question=texts.get("question", ""),
            content={name: texts[name] for name in ("source", "translation")},
        )


def _draw_tasks(tasks: Sequence[Task], most: int, seed: int) -> list[Task]:
    order = named_rng(seed, "people").permutation(len(tasks))
    chosen = order[:most] if most else order
    return [tasks[i] for i in chosen]
