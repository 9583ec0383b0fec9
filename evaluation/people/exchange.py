"""Judgements out and in: Label Studio's JSON, Argilla's records, and a plain table."""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from core.errors import DataError
from evaluation.people.store import Judgement, PeopleStore
from evaluation.people.tasks import Task


def to_label_studio(store: PeopleStore) -> str:
    """Tasks with their annotations, as Label Studio exports and imports them."""
    by_task: dict[str, list[Judgement]] = {}
    for judgement in store.judgements():
        by_task.setdefault(judgement.task_id, []).append(judgement)
    tasks = [
        {
            "data": _data(task),
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
    """The annotations of such a file.

    Raises:
        DataError: not such a file.
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
                by = annotation.get("completed_by")
                name = by["email"] if isinstance(by, dict) else str(by)
                found.append(
                    Judgement(task_id=task["data"]["task_id"], annotator=name, answers=answers)
                )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"no Label Studio export of these tasks: {error!r}") from error
    return found


def to_argilla(store: PeopleStore) -> str:
    """Records with responses, one JSON per line, as Argilla's `Record.to_dict` has them."""
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
        record = {"id": task.task_id, "fields": _data(task), "responses": responses}
        lines.append(json.dumps(record, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def from_argilla(text: str) -> list[Judgement]:
    """The responses of such a file.

    Raises:
        DataError: not such a file.
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
        raise DataError(f"no Argilla export of these tasks: {error!r}") from error
    return [
        Judgement(task_id=task, annotator=name, answers=answers)
        for (task, name), answers in found.items()
    ]


def to_csv(store: PeopleStore) -> str:
    """One line per judgement."""
    columns = ["task", "annotator", "content", "language", "overall", "verdict", "text"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for judgement in store.judgements():
        known = {"task": judgement.task_id, "annotator": judgement.annotator}
        writer.writerow(known | judgement.answers)
    return buffer.getvalue()


def import_judgements(store: PeopleStore, judgements: Iterable[Judgement]) -> int:
    """Keep them all, or none if one doesn't fit; returns their number.

    Raises:
        DataError: an unknown task, or answers that don't fit it.
    """
    every = list(judgements)
    for judgement in every:
        store.check(judgement)
    for judgement in every:
        store.judge(judgement)
    return len(every)


def _data(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "language": task.language,
        "image_key": task.image_key,
        "question": task.question,
        **task.content,
    }
