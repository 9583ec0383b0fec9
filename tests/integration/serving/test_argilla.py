"""A judged file in a real Argilla, and back without loss.

Argilla needs an environment of its own: give its Python in ARGILLA_PYTHON, as
docs/guides/human-evaluation.md describes. The server runs on SQLite. Nothing is searched or
queued, so its search engine and its job queue are replaced.
"""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evaluation.people import run
from evaluation.people.store import JUDGED_ASPECTS, AnnotationStore, Judgement
from evaluation.people.tasks import TaskKind
from tests.integration.serving.test_label_studio import (
    NUM_JUDGED,
    NUM_TASKS,
    compared,
    judge_some,
    reviewed,
)
from tests.support.doubles import write_shard, write_source
from tests.support.servers.mlflow_server import free_port
from tests.support.small_world import image

PYTHON = os.environ.get("ARGILLA_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="ARGILLA_PYTHON names no Python with argilla-server"),
]
START_TIMEOUT_S = 600
SERVER = """
import asyncio, sys
import fakeredis, redis
redis.from_url = lambda *_values, **_names: fakeredis.FakeRedis()
from argilla_server.search_engine.base import SearchEngine
import argilla_server.search_engine

async def do_nothing(self, *_values, **_names):
    return None

async def is_there(self):
    return True

async def new_instance(cls):
    return cls()

methods = dict.fromkeys(SearchEngine.__abstractmethods__, do_nothing)
methods |= {"ping": is_there, "new_instance": classmethod(new_instance)}
SearchEngine.register("elasticsearch")(type("NoSearch", (SearchEngine,), methods))
import uvicorn
from argilla_server._app import app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""
CLIENT = """
import json, sys, uuid
import argilla as rg

url, name, answer, submitted, draft, discarded = sys.argv[1:]
client = rg.Argilla(api_url=url, api_key="owner.key")
if client.workspaces(name) is None:
    rg.Workspace(name=name).create()
settings = rg.Settings.from_json(f"{name}.settings.json")
dataset = rg.Dataset(name=name, workspace=name, settings=settings).create()
with open(f"{name}.jsonl", encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
known = {str(user.id) for user in client.users}
given = [one for row in rows for found in row["responses"].values() for one in found]
for user in {one["user_id"] for one in given}:
    if user not in known:
        rg.User(username=f"u{user[:8]}", password="12345678", role="annotator",
                id=uuid.UUID(user)).create()
dataset.records.log([rg.Record.from_dict(row, dataset=dataset) for row in rows])

questions = [question.name for question in settings.questions if question.required]
for task, status, asked in (
    (submitted, "submitted", questions), (draft, "draft", questions),
    (discarded, "discarded", questions[:1]),
):
    responses = [rg.Response(one, answer, user_id=client.me.id, status=status) for one in asked]
    fields = next(row["fields"] for row in rows if row["id"] == task)
    dataset.records.log([rg.Record(id=task, fields=fields, responses=responses)])

back = []
for record in dataset.records(with_responses=True):
    row = record.to_dict()
    row["responses"] = {}
    for one in record.responses:
        entry = {"value": one.value, "user_id": str(one.user_id), "status": one.status}
        row["responses"].setdefault(one.question_name, []).append(entry)
    back.append(row)
with open(f"{name}.back.json", "w", encoding="utf-8") as file:
    json.dump(back, file)
dataset.records(with_responses=True).to_json(f"{name}.plain.json")
print(client.me.id)
"""


@pytest.fixture(scope="module")
def argilla(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running server."""
    folder, port = tmp_path_factory.mktemp("argilla"), free_port()
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"ARGILLA_HOME_PATH": str(folder), "HF_HUB_OFFLINE": "1"}
    (folder / "server.py").write_text(SERVER)
    account = ["--username", "owner", "--password", "12345678", "--api-key", "owner.key"]
    for words in (
        ["migrate"],
        ["users", "create", "--first-name", "o", "--role", "owner", *account],
    ):
        command = [PYTHON, "-m", "argilla_server", "database", *words]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [PYTHON, "server.py", str(port)], cwd=folder, env=variables, stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(process, url, log)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/api/v1/version", timeout=30).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"Argilla did not start: {log.read_text()[-3000:]}")


@pytest.mark.parametrize("create", [compared, reviewed])
def test_judgements_come_back_as_they_were(
    argilla: str,
    tmp_path: Path,
    create: Callable[[Path], AnnotationStore],
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, name = create(tmp_path / "people.db"), create.__name__
    expected = judge_some(store)
    entry = write_shard(
        tmp_path / "p-000000.tar", [(f"p{i}", {"messages": []}, image(i)) for i in range(NUM_TASKS)]
    )
    images = write_source(tmp_path, "images", [entry], language="eu")
    words = ["--export", "argilla", str(tmp_path / f"{name}.jsonl"), "--images", str(images)]
    assert run.main(["--db", str(store.path), *words]) == 0
    answer = "tie" if store.kind is TaskKind.COMPARE else "accept"
    submitted, draft, discarded = (task.task_id for task in store.tasks[NUM_JUDGED:])
    command = [PYTHON, "-c", CLIENT, argilla, name, answer, submitted, draft, discarded]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    account = done.stdout.split()[-1]
    capsys.readouterr()
    other = create(tmp_path / "back.db")
    words = ["--import", "argilla", str(tmp_path / f"{name}.back.json")]
    assert run.main(["--db", str(other.path), *words]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert f"left out: task {draft} by {account}: is a draft" in output
    assert output.endswith("left out 1"), "nothing else is left out"
    aspects = JUDGED_ASPECTS[store.kind]
    added = [
        Judgement(task_id=task, annotator=account, answers=dict.fromkeys(aspects, given))
        for task, given in ((submitted, answer), (discarded, "skip"))
    ]
    assert other.judgements() == expected + added
    again = tmp_path / "again.jsonl"
    assert run.main(["--db", str(other.path), "--export", "argilla", str(again)]) == 0
    assert account in again.read_text(), "an account of Argilla keeps its id"
    capsys.readouterr()
    untouched = create(tmp_path / "plain.db")
    words = ["--import", "argilla", str(tmp_path / f"{name}.plain.json")]
    assert run.main(["--db", str(untouched.path), *words]) != 0
    assert "responses have no status" in capsys.readouterr().err
    assert untouched.judgements() == [], "to_json of Argilla drops the status"
