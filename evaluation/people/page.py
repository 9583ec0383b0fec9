"""The page on which people judge: one task at a time, names hidden, sides drawn by chance."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field, StringConstraints

from core.errors import DataError
from core.io import loopback
from core.io.image_types import image_type
from evaluation.benchmarks.images import ImageLookup
from evaluation.people.store import MAX_NAME, MAX_TEXT, Judgement, PeopleStore, check_name
from evaluation.people.tasks import Task, TaskKind

FILES = Path(__file__).parent / "web"
_MAX_BODY = 64_000
_NAMES = ("people.js", "people.css")

_Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]
_Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]


class _Person(BaseModel):
    annotator: _Name


class _Judged(_Person):
    task_id: Annotated[str, StringConstraints(max_length=500)]
    answers: dict[Annotated[str, StringConstraints(max_length=20)], _Text] = Field(max_length=5)


def build_app(store: PeopleStore, images: ImageLookup, *, language: str) -> FastAPI:
    """The page over a store.

    Args:
        store: tasks and judgements.
        images: by image key.
        language: of the page's own words, as it opens.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    loopback.guard(app, max_bytes=_MAX_BODY)

    @app.exception_handler(DataError)
    def refused(_request: Any, error: DataError) -> JSONResponse:
        return loopback.refusal(422, str(error))

    _add_files(app)
    _add_tasks(app, store, images, language)
    _add_judgements(app, store)
    return app


def _add_files(app: FastAPI) -> None:
    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(FILES / "index.html")

    @app.get("/{name}")
    def file(name: str) -> Response:
        if name not in _NAMES:
            return loopback.refusal(404, "there is no such page")
        return FileResponse(FILES / name)


def _add_tasks(app: FastAPI, store: PeopleStore, images: ImageLookup, language: str) -> None:
    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return {"kind": store.kind.value, "language": language, "num_tasks": len(store.tasks)}

    @app.get("/api/image")
    def image(task: str) -> Response:
        found = images(store.task(task).image_key)
        kind = None if found is None else image_type(found)
        if found is None or kind is None:
            return loopback.refusal(404, "this task has no image that a browser shows")
        return Response(found, media_type=kind)

    @app.post("/api/next")
    def following(person: _Person) -> dict[str, Any]:
        check_name(person.annotator)
        return _following(store, person.annotator)


def _add_judgements(app: FastAPI, store: PeopleStore) -> None:
    @app.post("/api/judge")
    def judge(judged: _Judged) -> dict[str, Any]:
        answers = _with_names(store, judged)
        store.judge(Judgement(task_id=judged.task_id, annotator=judged.annotator, answers=answers))
        return _following(store, judged.annotator)

    @app.post("/api/undo")
    def undo(person: _Person) -> dict[str, Any]:
        store.undo(person.annotator)
        return _following(store, person.annotator)


def _with_names(store: PeopleStore, judged: _Judged) -> dict[str, str]:
    """Answers with the systems' names in the place of sides."""
    task, answers = store.task(judged.task_id), judged.answers
    if task.kind is not TaskKind.COMPARE:
        return answers
    if named := sorted(set(answers.values()) & set(task.content)):
        raise DataError(f"'{named[0]}' is hidden here; say left or right", "answers")
    sides = dict(zip(("left", "right"), store.sides(task, judged.annotator), strict=True))
    return {name: sides.get(answer, answer) for name, answer in answers.items()}


def _following(store: PeopleStore, annotator: str) -> dict[str, Any]:
    task = store.next_task(annotator)
    done, left = store.progress(annotator)
    shown = None if task is None else _shown(store, task, annotator)
    return {"task": shown, "done": done, "left": left}


def _shown(store: PeopleStore, task: Task, annotator: str) -> dict[str, Any]:
    """What a person may see of a task: no names."""
    shown = {
        "task_id": task.task_id,
        "language": task.language,
        "question": task.question,
        "has_image": bool(task.image_key),
    }
    if task.kind is TaskKind.VALIDATE:
        return shown | task.content
    left, right = store.sides(task, annotator)
    return shown | {"left": task.content[left], "right": task.content[right]}
