"""Tasks and judgements in the JSON format of Label Studio, with the configuration of its labels."""

import json
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from core.errors import DataError
from core.io.reading import parse_json
from evaluation.benchmarks.images import ImageLookup
from evaluation.people.exchange import (
    FIX_TEXT,
    JUDGED_BY,
    foreign_judgement,
    hide_names,
    image_field,
    kind_of_fields,
    shown_answers,
    task_fields,
    why_incomplete,
)
from evaluation.people.store import JUDGED_ASPECTS, SKIP, AnnotationStore, Judgement
from evaluation.people.tasks import TaskKind


def to_label_studio(store: AnnotationStore, images: ImageLookup | None = None) -> str:
    """Return the tasks with their annotations in the JSON format of Label Studio.

    Label Studio rejects a file whose annotators have no account, so their names are stored as an
    answer to a hidden question and not as accounts.

    Args:
        store: The annotation database.
        images: Lookup of the images, which become part of the file; None for tasks without images.

    Raises:
        DataError: If an image can't be decoded.
    """
    by_task: dict[str, list[Judgement]] = {}
    for judgement in store.judgements():
        by_task.setdefault(judgement.task_id, []).append(judgement)
    tasks = [
        {
            "data": task_fields(store, task) | image_field(task, images),
            "annotations": [
                {"result": _results(store, judgement)}
                for judgement in by_task.get(task.task_id, [])
            ],
        }
        for task in store.tasks
    ]
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def label_config(kind: TaskKind, *, has_images: bool) -> str:
    """Return the labelling configuration of a project: what is shown and asked.

    Args:
        kind: Kind of the tasks.
        has_images: Whether the tasks have images.
    """
    view = ET.Element("View")
    if has_images:
        ET.SubElement(view, "Image", name="picture", value="$image")
    names = ("left", "right") if kind is TaskKind.COMPARE else ("source", "translation")
    for name in ("question", *names):
        ET.SubElement(view, "Header", value=name)
        ET.SubElement(view, "Text", name=name, value=f"${name}")
    for aspect in JUDGED_ASPECTS[kind]:
        ET.SubElement(view, "Header", value=aspect)
        options = {"name": aspect, "toName": "question", "required": "true"}
        choices = ET.SubElement(view, "Choices", options, choice="single-radio", showInline="true")
        for answer in shown_answers(kind):
            ET.SubElement(choices, "Choice", value=answer)
    if kind is TaskKind.VALIDATE:
        ET.SubElement(view, "TextArea", name=FIX_TEXT, toName="question", maxSubmissions="1")
    hidden = ET.SubElement(view, "View", style="display: none")
    ET.SubElement(hidden, "TextArea", name=JUDGED_BY, toName="question", maxSubmissions="1")
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def from_label_studio(text: str) -> tuple[list[Judgement], list[str]]:
    """Parse the annotations of an export in the format JSON or JSON_MIN.

    Cancelled annotations are skipped tasks. Annotations with a part of the answers are left out.

    Returns:
        The judgements, and what was left out with the reason.

    Raises:
        DataError: If the text is not an export of annotation tasks.
    """
    found, left_out = list[Judgement](), list[str]()
    try:
        for task in parse_json(text):
            for data, author, answers in _annotations(task):
                judgement = foreign_judgement(data["task_id"], author, answers)
                if reason := why_incomplete(judgement, kind_of_fields(data)):
                    left_out.append(reason)
                else:
                    found.append(judgement)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"not a Label Studio export of annotation tasks: {error!r}") from error
    return found, left_out


def _annotations(task: Mapping[str, Any]) -> list[tuple[dict[str, Any], Any, dict[str, Any]]]:
    """Return the fields of a task with the author and the answers of each annotation.

    The author is the name that an export of ours has stored, else the account.
    """
    if "data" not in task:  # JSON_MIN: fields, answers and annotator side by side
        data = dict(task)
        if data["annotator"] is None:  # a task without an annotation
            return []
        names = (*JUDGED_ASPECTS[kind_of_fields(data)], FIX_TEXT, JUDGED_BY)
        answers = {name: _single(task[name]) for name in names if name in task}
        return [(data, answers.pop(JUDGED_BY, data["annotator"]), answers)]
    data = task["data"]
    found = []
    for annotation in task.get("annotations", []):
        answers = _answers(annotation)
        author = answers.pop(JUDGED_BY, None) or _account(annotation)
        if annotation.get("was_cancelled"):
            answers = dict.fromkeys(JUDGED_ASPECTS[kind_of_fields(data)], SKIP)
        found.append((data, author, answers))
    return found


def _account(annotation: Mapping[str, Any]) -> Any:
    account = annotation.get("completed_by")
    return account["email"] if isinstance(account, dict) else account


def _answers(annotation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        part["from_name"]: (
            part["value"]["text"] if "text" in part["value"] else part["value"]["choices"]
        )[0]
        for part in annotation["result"]
    }


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _results(store: AnnotationStore, judgement: Judgement) -> list[dict[str, Any]]:
    answers = {**hide_names(store, judgement), JUDGED_BY: judgement.annotator}
    return [
        {
            "from_name": name,
            "to_name": "question",
            **(
                {"type": "textarea", "value": {"text": [answer]}}
                if name in (FIX_TEXT, JUDGED_BY)
                else {"type": "choices", "value": {"choices": [answer]}}
            ),
        }
        for name, answer in sorted(answers.items())
    ]
