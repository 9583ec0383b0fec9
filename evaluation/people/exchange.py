"""Export and import of judgements: records of Argilla, and CSV.

The formats of the annotation programs are as blind as the annotation page: the replies are called
left and right, in an order that is random per task, and system names do not occur. The CSV table
is for analysis and contains the names.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable
from typing import Any

from core.errors import DataError
from core.io.reading import parse_json
from evaluation.people.store import AnnotationStore, Judgement
from evaluation.people.tasks import Task, TaskKind

_EXPORT_SIDES = ""
"""Name that selects the sides of exported tasks; annotators can't have an empty name."""


def to_argilla(store: AnnotationStore) -> str:
    """Return records with responses as JSON lines, in the format of Argilla's `Record.to_dict`."""
    by_task: dict[str, list[Judgement]] = {}
    for judgement in store.judgements():
        by_task.setdefault(judgement.task_id, []).append(judgement)
    lines = []
    for task in store.tasks:
        responses: dict[str, list[dict[str, str]]] = {}
        for judgement in by_task.get(task.task_id, []):
            for name, answer in hide_names(store, judgement).items():
                entry = {"value": answer, "user_id": judgement.annotator}
                responses.setdefault(name, []).append(entry)
        record = {"id": task.task_id, "fields": task_fields(store, task), "responses": responses}
        lines.append(json.dumps(record, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def from_argilla(text: str) -> list[Judgement]:
    """Parse the responses of an Argilla export.

    Raises:
        DataError: If the text is not an export of annotation tasks.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    try:
        # Not splitlines: a text may contain other line separators, such as U+2028.
        for line in filter(str.strip, text.split("\n")):
            record = parse_json(line)
            for name, responses in record["responses"].items():
                for response in responses:
                    key = (str(record["id"]), str(response["user_id"]))
                    answers = found.setdefault(key, {})
                    if name in answers:
                        raise ValueError(f"{key} has two answers to '{name}'")
                    answers[name] = response["value"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not an Argilla export of annotation tasks: {error!r}") from error
    return [foreign_judgement(task, name, answers) for (task, name), answers in found.items()]


def to_csv(store: AnnotationStore) -> str:
    """Return a CSV table with one row per judgement."""
    columns = ["task", "annotator", "content", "language", "overall", "verdict", "text"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for judgement in store.judgements():
        identity = {"task": judgement.task_id, "annotator": judgement.annotator}
        writer.writerow(identity | judgement.answers)
    return buffer.getvalue()


def import_judgements(store: AnnotationStore, judgements: Iterable[Judgement]) -> int:
    """Import all judgements, or none of them if one is invalid, and return their number.

    Raises:
        DataError: If a task is unknown or appears twice for an annotator, or answers do not match
            their task or name a system.
    """
    checked = []
    seen: set[tuple[str, str]] = set()
    for judgement in judgements:
        key = (judgement.task_id, judgement.annotator)
        if key in seen:
            raise DataError(f"{key} appears twice; expected one judgement per task and annotator")
        seen.add(key)
        task = store.task(judgement.task_id)
        answers = store.reveal(task, _EXPORT_SIDES, judgement.answers)
        checked.append(dataclasses.replace(judgement, answers=answers))
        store.check(checked[-1])
    for judgement in checked:
        store.judge(judgement)
    return len(checked)


def foreign_judgement(task_id: Any, annotator: Any, answers: dict[str, Any]) -> Judgement:
    """Return a judgement of a foreign file.

    Raises:
        DataError: If a value is not text.
    """
    if not all(isinstance(value, str) for value in (task_id, *answers, *answers.values())):
        raise DataError(f"the annotation of task {task_id!r} contains values that are not text")
    if not isinstance(annotator, str | int):
        raise DataError(f"the annotator of task '{task_id}' is {annotator!r}; expected a name")
    return Judgement(task_id=task_id, annotator=str(annotator), answers=answers)


def hide_names(store: AnnotationStore, judgement: Judgement) -> dict[str, str]:
    """Return the answers of a judgement with system names replaced by left and right."""
    task = store.task(judgement.task_id)
    if task.kind is not TaskKind.COMPARE:
        return judgement.answers
    left, right = store.sides(task, _EXPORT_SIDES)
    sides = {left: "left", right: "right"}
    return {name: sides.get(answer, answer) for name, answer in judgement.answers.items()}


def task_fields(store: AnnotationStore, task: Task) -> dict[str, Any]:
    """Return what an annotator sees of a task, without the names of systems."""
    content = task.content
    if task.kind is TaskKind.COMPARE:
        left, right = store.sides(task, _EXPORT_SIDES)
        content = {"left": content[left], "right": content[right]}
    return {
        "task_id": task.task_id,
        # An aspect is named `language`; answers to it must not replace a field of the task.
        "text_language": task.language,
        "image_key": task.image_key,
        "question": task.question,
        **content,
    }
