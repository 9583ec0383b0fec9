"""Shared parts of the exports for annotation programs, import of their judgements, CSV table.

The formats of the annotation programs are as blind as the annotation page: the replies are called
left and right, in an order that is random per task, and system names do not occur. The CSV table
is for analysis and contains the names.
"""

import base64
import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import DataError
from core.io.images import portable_image
from evaluation.benchmarks.images import ImageLookup
from evaluation.people.store import (
    FIX,
    JUDGED_ASPECTS,
    SKIP,
    TIE,
    VERDICTS,
    AnnotationStore,
    Judgement,
)
from evaluation.people.tasks import Task, TaskKind

FIX_TEXT = "text"
"""Name of the question for a corrected translation."""
JUDGED_BY = "judged_by"
"""Name of the hidden value that holds the annotators of exported judgements."""
_EXPORT_SIDES = ""
"""Name that selects the sides of exported tasks; annotators can't have an empty name."""


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
    """Return a judgement of a foreign file, without a corrected text that is blank.

    Raises:
        DataError: If a value is not text.
    """
    if not all(isinstance(value, str) for value in (task_id, *answers, *answers.values())):
        raise DataError(f"the annotation of task {task_id!r} contains values that are not text")
    if not isinstance(annotator, str | int):
        raise DataError(f"the annotator of task '{task_id}' is {annotator!r}; expected a name")
    given = {name: value for name, value in answers.items() if name != FIX_TEXT or value.strip()}
    return Judgement(task_id=task_id, annotator=str(annotator), answers=given)


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


def image_field(task: Task, images: ImageLookup | None) -> dict[str, str]:
    """Return the field of a task with its image as a data URI; nothing without an image.

    Raises:
        DataError: If the image can't be decoded.
    """
    content = images(task.image_key) if images is not None and task.image_key else None
    if content is None:
        return {}
    portable, media_type = portable_image(content)
    return {"image": f"data:{media_type};base64,{base64.b64encode(portable).decode()}"}


def shown_answers(kind: TaskKind) -> tuple[str, ...]:
    """Return the answers that annotators choose from."""
    return ("left", "right", TIE, SKIP) if kind is TaskKind.COMPARE else tuple(VERDICTS)


def kind_of_fields(fields: Mapping[str, Any]) -> TaskKind:
    """Return the kind of an exported task by the names of its fields."""
    return TaskKind.COMPARE if "left" in fields else TaskKind.VALIDATE


def why_incomplete(judgement: Judgement, kind: TaskKind) -> str:
    """Return which answers a judgement lacks or has in excess; an empty text if it is complete."""
    answers = judgement.answers
    where = f"task {judgement.task_id} by {judgement.annotator}"
    missing = [aspect for aspect in JUDGED_ASPECTS[kind] if aspect not in answers]
    if missing:
        given = ", ".join(sorted(answers)) or "nothing"
        return f"{where}: {given} is answered, {', '.join(missing)} is not"
    if kind is TaskKind.VALIDATE:
        if answers["verdict"] == FIX and FIX_TEXT not in answers:
            return f"{where}: the verdict is {FIX}, but there is no text"
        if answers["verdict"] != FIX and FIX_TEXT in answers:
            return f"{where}: there is a text, but the verdict is {answers['verdict']}"
    return ""
