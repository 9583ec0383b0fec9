"""Annotation page: one task at a time, with hidden system names and randomised sides."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field, StringConstraints

from core.errors import DataError
from core.io import loopback
from core.io.images import portable_image
from evaluation.benchmarks.images import ImageLookup
from evaluation.people.store import MAX_NAME, AnnotationStore, Judgement
from evaluation.people.tasks import Task, TaskKind

WEB_FOLDER = Path(__file__).parent / "web"
_MAX_BODY_BYTES = 64_000
_WEB_FILES = ("people.js", "people.css")

_AnnotatorName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]


class _AnnotatorRequest(BaseModel):
    annotator: _AnnotatorName


class _JudgementRequest(_AnnotatorRequest):
    task_id: Annotated[str, StringConstraints(max_length=500)]
    answers: dict[Annotated[str, StringConstraints(max_length=20)], str] = Field(max_length=5)
    """Lengths of texts are checked by the store, whose message annotators can understand."""


def build_app(store: AnnotationStore, images: ImageLookup, *, language: str) -> FastAPI:
    """Build the web application of the annotation page.

    Args:
        store: Tasks and judgements.
        images: Lookup of the images of tasks.
        language: Initial language of the user interface.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    loopback.guard(app, max_bytes=_MAX_BODY_BYTES)

    @app.exception_handler(DataError)
    def reject_invalid_data(_request: Any, error: DataError) -> JSONResponse:
        return loopback.refusal(422, str(error))

    _add_files(app)
    _add_tasks(app, store, images, language)
    _add_judgements(app, store)
    return app


def _add_files(app: FastAPI) -> None:
    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(WEB_FOLDER / "index.html")

    @app.get("/{name}")
    def file(name: str) -> Response:
        if name not in _WEB_FILES:
            return loopback.refusal(404, "page not found")
        return FileResponse(WEB_FOLDER / name)


def _add_tasks(app: FastAPI, store: AnnotationStore, images: ImageLookup, language: str) -> None:
    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return {"kind": store.kind.value, "language": language, "num_tasks": len(store.tasks)}

    @app.get("/api/image")
    def image(task: str) -> Response:
        content = images(store.task(task).image_key)
        if content is None:
            return loopback.refusal(404, "this task has no image")
        try:
            portable, media_type = portable_image(content)
        except DataError as error:
            return loopback.refusal(404, str(error))
        return Response(portable, media_type=media_type)

    @app.post("/api/next")
    def next_task(request: _AnnotatorRequest) -> dict[str, Any]:
        store.check_spelling(request.annotator)
        return _next_state(store, request.annotator)


def _add_judgements(app: FastAPI, store: AnnotationStore) -> None:
    @app.post("/api/judge")
    def judge(request: _JudgementRequest) -> dict[str, Any]:
        answers = store.reveal(store.task(request.task_id), request.annotator, request.answers)
        store.judge(
            Judgement(task_id=request.task_id, annotator=request.annotator, answers=answers)
        )
        return _next_state(store, request.annotator)

    @app.post("/api/undo")
    def undo(request: _AnnotatorRequest) -> dict[str, Any]:
        store.undo(request.annotator)
        return _next_state(store, request.annotator)


def _next_state(store: AnnotationStore, annotator: str) -> dict[str, Any]:
    task = store.next_task(annotator)
    done, left = store.progress(annotator)
    shown = None if task is None else _visible_fields(store, task, annotator)
    return {"task": shown, "done": done, "left": left}


def _visible_fields(store: AnnotationStore, task: Task, annotator: str) -> dict[str, Any]:
    """Return the fields of a task that an annotator may see, without system names."""
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
