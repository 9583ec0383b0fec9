"""Tasks and judgements as records of Argilla, with the settings of their dataset.

The records are those of `Record.to_dict` in Argilla's SDK, one per line, and the settings those of
`Settings.from_json`. Records are as blind as the annotation page.
"""

import json
import uuid
from typing import Any

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

_ANNOTATORS = uuid.UUID("7a4d0b1e-1f0d-5f0e-9d3c-3c1f6f1f6d52")
"""Namespace of the user ids that stand for names of annotators."""
_ABOUT_TASK = ("text_language", "image_key")
"""Fields of a task that become metadata, since they are not shown."""
_SUBMITTED, _DISCARDED = "submitted", "discarded"


def to_argilla(store: AnnotationStore, images: ImageLookup | None = None) -> str:
    """Return records with responses as JSON lines.

    Argilla identifies annotators by UUIDs. Their names are stored as metadata of the record, which
    annotators do not see.

    Args:
        store: The annotation database.
        images: Lookup of the images, which become part of the file; None for tasks without images.

    Raises:
        DataError: If an image can't be decoded.
    """
    by_task: dict[str, list[Judgement]] = {}
    for judgement in store.judgements():
        by_task.setdefault(judgement.task_id, []).append(judgement)
    lines = []
    for task in store.tasks:
        judgements = by_task.get(task.task_id, [])
        fields = task_fields(store, task) | image_field(task, images)
        del fields["task_id"]  # the id of the record
        metadata: dict[str, Any] = {name: fields.pop(name) for name in _ABOUT_TASK}
        metadata[JUDGED_BY] = [judgement.annotator for judgement in judgements]
        record = {
            "id": task.task_id,
            "fields": _without_empty(fields),
            "metadata": _without_empty(metadata),
            "responses": _responses(store, judgements),
        }
        lines.append(json.dumps(record, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def dataset_settings(kind: TaskKind, *, has_images: bool) -> str:
    """Return the settings of a dataset for the records, as `argilla.Settings.from_json` reads them.

    Args:
        kind: Kind of the tasks.
        has_images: Whether the tasks have images.
    """
    texts = ("left", "right") if kind is TaskKind.COMPARE else ("source", "translation")
    fields = [_field("image", {"type": "image"})] if has_images else []
    fields += [
        _field(name, {"type": "text", "use_markdown": False}) for name in ("question", *texts)
    ]
    options = [{"value": answer, "text": answer} for answer in shown_answers(kind)]
    questions = [
        _question(
            aspect,
            {"type": "label_selection", "options": options, "visible_options": len(options)},
            is_required=True,
        )
        for aspect in JUDGED_ASPECTS[kind]
    ]
    if kind is TaskKind.VALIDATE:
        settings = {"type": "text", "use_markdown": False}
        questions.append(_question(FIX_TEXT, settings, is_required=False))
    content = {
        "guidelines": None,
        "fields": fields,
        "questions": questions,
        "vectors": [],
        "metadata": [_metadata_property(name) for name in (*_ABOUT_TASK, JUDGED_BY)],
        "allow_extra_metadata": False,
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def from_argilla(text: str) -> tuple[list[Judgement], list[str]]:
    """Parse the responses of records: JSON lines, or the list that `Dataset.records` writes.

    Discarded responses are skipped tasks. Responses that are not submitted or have a part of the
    answers are left out.

    Returns:
        The judgements, and what was left out with the reason.

    Raises:
        DataError: If the text is not an export of annotation tasks, or responses have no status.
    """
    found, left_out, num_unknown = list[Judgement](), list[str](), 0
    try:
        # Not splitlines: a text may contain other line separators, such as U+2028.
        records = (
            parse_json(text)
            if text.lstrip().startswith("[")
            else [parse_json(line) for line in filter(str.strip, text.split("\n"))]
        )
        names = {
            user_id(name): name
            for record in records
            for name in (record.get("metadata") or {}).get(JUDGED_BY, [])
        }
        for record in records:
            kind = kind_of_fields(record["fields"])
            for user, answers, status in _answers_by_user(record):
                num_unknown += not status
                if status == _DISCARDED:
                    answers = dict.fromkeys(JUDGED_ASPECTS[kind], SKIP)
                judgement = foreign_judgement(record["id"], names.get(user, user), answers)
                reason = why_incomplete(judgement, kind)
                if not reason and status not in (_SUBMITTED, _DISCARDED):
                    reason = f"task {judgement.task_id} by {judgement.annotator}: is a {status}"
                if reason:
                    left_out.append(reason)
                else:
                    found.append(judgement)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not an Argilla export of annotation tasks: {error!r}") from error
    if num_unknown:
        raise DataError(
            f"{num_unknown} responses have no status, so that drafts and discarded ones can't be "
            "told from judgements; `Record.to_dict` and `to_json` of Argilla leave it out: write "
            "the records with the lines in docs/guides/human-evaluation.md"
        )
    return found, left_out


def user_id(annotator: str) -> str:
    """Return the UUID that stands for an annotator: always the same for a name.

    A name that is a UUID, as judgements made in Argilla have, stays as it is.
    """
    try:
        if str(uuid.UUID(annotator)) == annotator:
            return annotator
    except ValueError:
        pass
    return str(uuid.uuid5(_ANNOTATORS, annotator))


def _responses(
    store: AnnotationStore, judgements: list[Judgement]
) -> dict[str, list[dict[str, str]]]:
    responses: dict[str, list[dict[str, str]]] = {}
    for judgement in judgements:
        user = user_id(judgement.annotator)
        for name, answer in hide_names(store, judgement).items():
            entry = {"value": answer, "user_id": user, "status": _SUBMITTED}
            responses.setdefault(name, []).append(entry)
    return responses


def _answers_by_user(record: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Return the user of each response of a record with the answers and the status, "" if none."""
    answers: dict[str, dict[str, Any]] = {}
    statuses: dict[str, set[str]] = {}
    for name, responses in record["responses"].items():
        for response in responses:
            user = str(response["user_id"])
            of_user = answers.setdefault(user, {})
            if name in of_user:
                raise ValueError(f"{record['id']}, {user}: two answers to '{name}'")
            of_user[name] = response["value"]
            statuses.setdefault(user, set()).add(response.get("status") or "")
    return [
        (user, found, " and ".join(sorted(filter(None, statuses[user]))))
        for user, found in answers.items()
    ]


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _field(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    # Only the replies and translations are never empty.
    is_required = settings["type"] == "text" and name != "question"
    return {"name": name, "title": name, "required": is_required, "settings": settings}


def _question(name: str, settings: dict[str, Any], *, is_required: bool) -> dict[str, Any]:
    return {"name": name, "title": name, "required": is_required, "settings": settings}


def _metadata_property(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "type": "terms",
        "settings": {"type": "terms", "values": None},
        "visible_for_annotators": False,
    }
