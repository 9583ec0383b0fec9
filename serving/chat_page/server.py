"""Web page of `experiments.chat --page`: one image and a conversation with one or two cells."""

import base64
import binascii
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field, StringConstraints
from rich.console import Console

from core.errors import DataError
from core.io import loopback
from core.samples import Role, Turn
from serving.talker import Talker

FILES = Path(__file__).parent
_MAX_IMAGE_BYTES = 12_000_000
_MAX_BODY_BYTES = 2 * _MAX_IMAGE_BYTES
_MAX_TURNS = 41
_MAX_CHARACTERS = 4000
_TurnText = Annotated[str, StringConstraints(min_length=1)]


class _PageTurn(BaseModel):
    role: Role
    content: _TurnText


class _PageQuestion(BaseModel):
    cell: str
    image: str
    """Image file, base64-encoded."""
    turns: list[_PageTurn] = Field(min_length=1, max_length=_MAX_TURNS)


def build_app(talkers: Sequence[Talker], *, language: str, examples: Sequence[str] = ()) -> FastAPI:
    """Build the application: the static page, the list of cells, and the endpoint for questions.

    Args:
        talkers: The cells that answer.
        language: Language of the page.
        examples: Images to choose from, as data URIs.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    loopback.guard(app, max_bytes=_MAX_BODY_BYTES)
    by_name = {talker.name: talker for talker in talkers}
    lock = threading.Lock()  # one answer at a time, because the models share the cores

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(FILES / "index.html")

    @app.get("/{name}")
    def file(name: str) -> Response:
        if name not in ("chat.js", "chat.css"):
            return loopback.refusal(404, "page not found")
        return FileResponse(FILES / name)

    @app.get("/api/cells")
    def cells() -> dict[str, object]:
        return {"cells": list(by_name), "language": language, "examples": list(examples)}

    @app.post("/api/ask")
    def ask(question: _PageQuestion) -> JSONResponse:
        talker = by_name.get(question.cell)
        if talker is None:
            return loopback.refusal(404, f"cell '{question.cell}' is not loaded")
        turns = [Turn(role=turn.role, content=turn.content) for turn in question.turns]
        longest = max(len(turn.content) for turn in turns)
        if longest > _MAX_CHARACTERS:
            reason = f"a turn has {longest} characters; the maximum is {_MAX_CHARACTERS}"
            return loopback.refusal(422, reason)
        try:
            image = base64.b64decode(question.image, validate=True)
            if len(image) > _MAX_IMAGE_BYTES:
                return loopback.refusal(413, f"the image is larger than {_MAX_IMAGE_BYTES:,} bytes")
            with lock:
                answer = talker.ask(image, turns)
        except (DataError, binascii.Error) as error:
            return loopback.refusal(422, str(error))
        return JSONResponse(dataclasses.asdict(answer))

    return app


def serve_page(
    talkers: Sequence[Talker],
    console: Console,
    *,
    language: str,
    port: int,
    examples: Sequence[str] = (),
) -> None:
    """Serve the page on this machine until Ctrl-C."""
    app = build_app(talkers, language=language, examples=examples)
    console.print(f"Open http://{loopback.HOST}:{port}  (press Ctrl-C to stop)", highlight=False)
    loopback.serve(app, port=port)
