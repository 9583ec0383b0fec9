"""A judged file in a real Label Studio, and back without loss.

Label Studio needs an environment of its own: give its Python in LABEL_STUDIO_PYTHON, as
docs/guides/human-evaluation.md describes.
"""

import base64
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.people import run
from evaluation.people.store import JUDGED_ASPECTS, VERDICTS, AnnotationStore, Judgement
from evaluation.people.tasks import Task, TaskKind
from tests.support.comparisons import comparison_of
from tests.support.doubles import write_shard, write_source
from tests.support.servers.mlflow_server import free_port
from tests.support.small_world import image

PYTHON = os.environ.get("LABEL_STUDIO_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="LABEL_STUDIO_PYTHON names no Python with label-studio"),
]
TOKEN = "0123456789abcdef0123456789abcdef01234567"
START_TIMEOUT_S = 600
NUM_TASKS, NUM_SHARED, NUM_JUDGED = 10, 4, 7
"""The other tasks are judged in Label Studio."""
ACCOUNT = "1"


class LabelStudio:
    """Client of a server on loopback."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read()[:2000]!r}") from error


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    folder, port = tmp_path_factory.mktemp("label_studio"), free_port()
    command = [
        PYTHON, "-m", "label_studio.server", "start", "--no-browser", "--data-dir", str(folder),
        "--internal-host", "127.0.0.1", "--port", str(port), "--username", "a@example.org",
        "--password", "pass-0000", "--user-token", TOKEN,
    ]  # fmt: skip
    settings = {
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "False",
        "LATEST_VERSION_CHECK": "False",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "HOME": str(folder),
    }
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=variables | settings, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield wait_for(process, f"http://127.0.0.1:{port}", log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(process: "subprocess.Popen[bytes]", url: str, log: Path) -> LabelStudio:
    client, deadline = LabelStudio(url), time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.ask("GET", "/api/version")
        except OSError:
            time.sleep(0.5)
        else:
            return client
    raise AssertionError(f"Label Studio did not start: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    samples = [(f"p{i}", {"messages": []}, image(i)) for i in range(NUM_TASKS)]
    entry = write_shard(folder / "p-000000.tar", samples)
    return Path(write_source(folder, "images", [entry], language="eu"))


def compared(path: Path) -> AnnotationStore:
    tasks = [
        Task(
            task_id=f"eu/vqa/{i}", kind=TaskKind.COMPARE, language="eu", image_key=f"p{i}",
            question=f"Zer da hau, {i}?\n<b>ñ</b>",
            content={"general": f"txakurra {i}", "adapted": f"katua & {i}"},
        )
        for i in range(NUM_TASKS)
    ]  # fmt: skip
    return AnnotationStore.create(path, tasks, overlap=NUM_SHARED, comparison=comparison_of(tasks))


def reviewed(path: Path) -> AnnotationStore:
    tasks = [
        Task(
            task_id=str(i), kind=TaskKind.VALIDATE, language="eu", image_key=f"p{i}", question="",
            content={"source": f"a dog {i}", "translation": f"txakur bat {i}"},
        )
        for i in range(NUM_TASKS)
    ]  # fmt: skip
    return AnnotationStore.create(path, tasks, overlap=NUM_SHARED)


def answers(kind: TaskKind, number: int) -> dict[str, str]:
    if kind is TaskKind.COMPARE:
        cycle = ("general", "adapted", "tie", "skip")
        return {name: cycle[(number + i) % 4] for i, name in enumerate(JUDGED_ASPECTS[kind])}
    verdict = VERDICTS[number % 4]
    fixed = {"text": f'zuzendua {number},\n"bi" ñ'} if verdict == "fix" else {}
    return {"verdict": verdict, **fixed}


def judge_some(store: AnnotationStore) -> list[Judgement]:
    """Let two annotators judge the shared tasks, and one of them some more."""
    for number, task in enumerate(store.tasks[:NUM_JUDGED]):
        for offset, who in enumerate(("Ane", "Jon Ander")[: 2 if number < NUM_SHARED else 1]):
            given = answers(store.kind, number + offset)
            store.judge(Judgement(task_id=task.task_id, annotator=who, answers=given))
    return store.judgements()


def import_project(studio: LabelStudio, exported: Path) -> int:
    config = exported.with_suffix(".labels.xml").read_text()
    body = {"title": exported.stem, "label_config": config}
    project: int = studio.ask("POST", "/api/projects/", body)["id"]
    studio.ask("POST", f"/api/projects/{project}/import", json.loads(exported.read_text()))
    return project


def judge_there(studio: LabelStudio, store: AnnotationStore, tasks: list[Any]) -> None:
    """Judge one task in Label Studio, another one in part, and skip the third."""
    aspects = JUDGED_ASPECTS[store.kind]
    answer = "tie" if store.kind is TaskKind.COMPARE else "accept"
    chosen = {"to_name": "question", "type": "choices", "value": {"choices": [answer]}}
    complete = [{"from_name": name, **chosen} for name in aspects]
    ids = {task["data"]["task_id"]: task["id"] for task in tasks}
    for task, body in zip(
        store.tasks[NUM_JUDGED:],
        ({"result": complete}, {"result": complete[1:]}, {"result": [], "was_cancelled": True}),
        strict=True,
    ):
        studio.ask("POST", f"/api/tasks/{ids[task.task_id]}/annotations/", body)


@pytest.mark.parametrize("create", [compared, reviewed])
def test_judgements_come_back_as_they_were(
    studio: LabelStudio,
    images: Path,
    tmp_path: Path,
    create: Callable[[Path], AnnotationStore],
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = create(tmp_path / "people.db")
    expected, exported = judge_some(store), tmp_path / "out.json"
    words = ["--export", "labelstudio", str(exported), "--images", str(images)]
    assert run.main(["--db", str(store.path), *words]) == 0
    project = import_project(studio, exported)
    tasks = studio.ask("GET", f"/api/tasks?project={project}&page_size=100")["tasks"]
    assert sum(task["total_annotations"] for task in tasks) == len(expected)
    for number, task in enumerate(tasks):
        assert base64.b64decode(task["data"]["image"].partition(",")[2]) == image(number)
    judge_there(studio, store, tasks)
    answer = "tie" if store.kind is TaskKind.COMPARE else "accept"
    there, partly, cancelled = store.tasks[NUM_JUDGED:]
    new = {
        there.task_id: dict.fromkeys(JUDGED_ASPECTS[store.kind], answer),
        cancelled.task_id: dict.fromkeys(JUDGED_ASPECTS[store.kind], "skip"),
    }
    for kind, ids in (("JSON", list(new)), ("JSON_MIN", [there.task_id])):
        back = tmp_path / f"{kind}.json"
        path = f"/api/projects/{project}/export?exportType={kind}&download_all_tasks=true"
        back.write_text(json.dumps(studio.ask("GET", path)))
        other = create(tmp_path / f"{kind}.db")
        capsys.readouterr()
        assert run.main(["--db", str(other.path), "--import", "labelstudio", str(back)]) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert f"left out: task {partly.task_id} by {ACCOUNT}: " in output, kind
        assert output.endswith("left out 1"), "nothing else is left out"
        added = [Judgement(task_id=i, annotator=ACCOUNT, answers=new[i]) for i in ids]
        assert other.judgements() == expected + added, kind
