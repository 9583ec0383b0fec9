"""The page of `experiments.chat --page`: one image, one or two cells, a conversation each."""

import argparse
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
from experiments.chat import Talker, load_talkers

FILES = Path(__file__).parent
_MAX_IMAGE = 12_000_000
_MAX_BODY = 2 * _MAX_IMAGE
_MAX_TURNS = 41
_Text = Annotated[str, StringConstraints(min_length=1, max_length=4000)]


class _Turn(BaseModel):
    role: Role
    content: _Text


class _Question(BaseModel):
    cell: str
    image: str
    """Base64."""
    turns: list[_Turn] = Field(min_length=1, max_length=_MAX_TURNS)


def build_app(talkers: Sequence[Talker], *, language: str) -> FastAPI:
    """The page and its two questions: who is there, and what does this one say."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    loopback.guard(app, max_bytes=_MAX_BODY)
    by_name = {talker.name: talker for talker in talkers}
    lock = threading.Lock()  # one answer at a time: the models share the cores

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(FILES / "index.html")

    @app.get("/{name}")
    def file(name: str) -> Response:
        if name not in ("chat.js", "chat.css"):
            return loopback.refusal(404, "there is no such page")
        return FileResponse(FILES / name)

    @app.get("/api/cells")
    def cells() -> dict[str, object]:
        return {"cells": list(by_name), "language": language}

    @app.post("/api/ask")
    def ask(question: _Question) -> JSONResponse:
        talker = by_name.get(question.cell)
        if talker is None:
            return loopback.refusal(404, f"no cell '{question.cell}' is loaded")
        turns = [Turn(role=turn.role, content=turn.content) for turn in question.turns]
        try:
            image = base64.b64decode(question.image, validate=True)
            if len(image) > _MAX_IMAGE:
                return loopback.refusal(413, f"the image has more than {_MAX_IMAGE:,} bytes")
            with lock:
                answer = talker.ask(image, turns)
        except (DataError, binascii.Error) as error:
            return loopback.refusal(422, str(error))
        return JSONResponse(dataclasses.asdict(answer))

    return app


def serve_page(options: argparse.Namespace, console: Console) -> None:
    """Load the cells and serve until Ctrl-C."""
    talkers, language = load_talkers(options)
    app = build_app(talkers, language=language)
    console.print(f"Open http://{loopback.HOST}:{options.port}  (Ctrl-C stops it)", highlight=False)
    loopback.serve(app, port=options.port)
