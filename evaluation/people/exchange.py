"""Export and import of judgements: JSON of Label Studio, records of Argilla, and CSV."""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from core.errors import DataError
from evaluation.people.store import AnnotationStore, Judgement
from evaluation.people.tasks import Task


def to_label_studio(store: AnnotationStore) -> str:
    """Return the tasks with their annotations in the JSON format of Label Studio."""
    by_task: dict[str, list[Judgement]] = {}
    for judgement in store.judgements():
        by_task.setdefault(judgement.task_id, []).append(judgement)
    tasks = [
        {
            "data": _task_fields(task),
            "annotations": [
                {
                    "completed_by": {"email": judgement.annotator},
                    "result": [
                        {
                            "from_name": name,
                            "to_name": "question",
                            "type": "textarea" if name == "text" else "choices",
                            "value": {"text": [answer]}
                            if name == "text"
                            else {"choices": [answer]},
                        }
                        for name, answer in sorted(judgement.answers.items())
                    ],
                }
                for judgement in by_task.get(task.task_id, [])
            ],
        }
        for task in store.tasks
    ]
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def from_label_studio(text: str) -> list[Judgement]:
    """Parse the annotations of a Label Studio export.

    Raises:
        DataError: If the text is not an export of annotation tasks.
    """
    found = []
    try:
        for task in json.loads(text):
            for annotation in task.get("annotations", []):
                answers = {
                    part["from_name"]: (
                        part["value"]["text"]
                        if "text" in part["value"]
                        else part["value"]["choices"]
                    )[0]
                    for part in annotation["result"]
                }
                author = annotation.get("completed_by")
                name = author["email"] if isinstance(author, dict) else str(author)
                found.append(
                    Judgement(task_id=task["data"]["task_id"], annotator=name, answers=answers)
                )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"not a Label Studio export of annotation tasks: {error!r}") from error
    return found


def to_argilla(store: AnnotationStore) -> str:
    """Return records with responses as JSON lines, in the format of Argilla's `Record.to_dict`."""
    by_task: dict[str, list[Judgement]] = {}
    for judgement in store.judgements():
        by_task.setdefault(judgement.task_id, []).append(judgement)
    lines = []
    for task in store.tasks:
        responses: dict[str, list[dict[str, str]]] = {}
        for judgement in by_task.get(task.task_id, []):
            for name, answer in judgement.answers.items():
                entry = {"value": answer, "user_id": judgement.annotator}
                responses.setdefault(name, []).append(entry)
        record = {"id": task.task_id, "fields": _task_fields(task), "responses": responses}
        lines.append(json.dumps(record, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def from_argilla(text: str) -> list[Judgement]:
    """Parse the responses of an Argilla export.

    Raises:
        DataError: If the text is not an export of annotation tasks.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    try:
        for line in text.splitlines():
            record = json.loads(line)
            for name, responses in record["responses"].items():
                for response in responses:
                    key = (str(record["id"]), str(response["user_id"]))
                    found.setdefault(key, {})[name] = str(response["value"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not an Argilla export of annotation tasks: {error!r}") from error
    return [
        Judgement(task_id=task, annotator=name, answers=answers)
        for (task, name), answers in found.items()
    ]


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
        DataError: If a task is unknown, or answers do not match their task.
    """
    checked = list(judgements)
    for judgement in checked:
        store.check(judgement)
    for judgement in checked:
        store.judge(judgement)
    return len(checked)


def _task_fields(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "language": task.language,
        "image_key": task.image_key,
        "question": task.question,
        **task.content,
    }
