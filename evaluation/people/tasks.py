"""Annotation tasks: comparisons of two replies, and reviews of translated items."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from core.errors import DataError
from core.rng import named_rng

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


def _draw_tasks(tasks: Sequence[Task], most: int, seed: int) -> list[Task]:
    order = named_rng(seed, "people").permutation(len(tasks))
    chosen = order[:most] if most else order
    return [tasks[i] for i in chosen]
