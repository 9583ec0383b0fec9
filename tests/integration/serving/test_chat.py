"""Chat with a cell: the answers of its evaluation, in the terminal and on the web page."""

import base64
import http.client
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from rich.console import Console

from core.samples import Turn
from evaluation.benchmarks.predictions import read_predictions
from experiments.chat import build_parser, chat_in_terminal, find_chat_cells, main
from serving.chat_page.server import build_app
from serving.talker import ChatAnswer, load_talkers
from tests.integration.conftest import LOUD
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow
NUM_NEW = 8
QUESTION = "Zer da hau?"


def words(*more: str) -> list[str]:
    grid = ["--profile", worlds.PROFILE, "--exp", "mix_ablation", *LOUD]
    return ["--run", worlds.CELL, "--max-new-tokens", str(NUM_NEW), *more, *grid]


@pytest.fixture
def inside(trained_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained_world)
    return trained_world


def evaluated(world: Path) -> dict[str, str]:
    """Return the answers of the evaluation by image key."""
    folder = worlds.stage_folder(world / "mlruns", "evaluate")
    table = read_predictions(next(folder.rglob("predictions.parquet"))).to_pylist()
    return {
        row["image_key"]: row["output"]
        for row in table
        if row["language"] == "eu" and row["benchmark"] == "vqa"
    }


def test_chat_gives_the_same_answer_as_the_evaluation(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for at, (_, expected) in enumerate(sorted(evaluated(inside).items())):
        image = inside / f"{at}.webp"
        image.write_bytes(worlds.image(1000 + at))
        assert main(words("--image", str(image), "--ask", QUESTION)) == 0
        said = capsys.readouterr().out.replace("(truncated at --max-new-tokens)", "")
        assert said.strip() == expected


def test_questions_are_asked_alone_unless_the_conversation_is_remembered() -> None:
    """Earlier turns changed an answer, and no evaluation has any."""

    class Recorder:
        name = "cell"

        def __init__(self) -> None:
            self.asked: list[list[str]] = []

        def ask(self, image: bytes, turns: Sequence[Turn]) -> ChatAnswer:
            del image
            self.asked.append([turn.content for turn in turns])
            return ChatAnswer(cell="", text="bat", seconds=0, num_tokens=1, is_truncated=False)

    for remembers in (False, True):
        typed = iter(["Zer da hau?", "Eta hau?", ""])
        console, recorder = Console(file=io.StringIO()), Recorder()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(console, "input", lambda _, typed=typed: next(typed))
            chat_in_terminal(console, [recorder], b"", remembers=remembers)  # type: ignore[list-item]
        earlier = ["Zer da hau?", "bat"] if remembers else []
        assert recorder.asked == [["Zer da hau?"], [*earlier, "Eta hau?"]]
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue().startswith("An empty line ends the chat.\nbat\n")


def test_invalid_questions_are_reported_with_a_fix(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("--ask", " ")) == 2
    assert "--ask is empty" in capsys.readouterr().err
    assert main(words("--ask", QUESTION)) == 2
    assert "--image" in capsys.readouterr().err
    broken = inside / "broken.png"
    broken.write_bytes(b"no image")
    assert main(words("--image", str(broken), "--ask", QUESTION)) == 2
    assert "can't be decoded" in capsys.readouterr().err
    three = ["--run", "a", "--run", "b"]
    assert main(words("--image", str(broken), "--ask", QUESTION, *three)) == 2
    assert "3 cells" in capsys.readouterr().err


@pytest.fixture(scope="module")
def address(trained_world: Path) -> Iterator[str]:
    """Serve the page and yield its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained_world)
        args = build_parser().parse_args(words("--page"))
        cells, language = find_chat_cells(args)
        talkers = load_talkers(
            cells, language=language, style=args.style, max_new_tokens=args.max_new_tokens
        )
        app = build_app(talkers, language=language)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=10)


def ask(address: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        named = {"Content-Type": "application/json"} | named
    request = urllib.request.Request(address + path, data=data, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            text, status, found = response.read(), response.status, response.headers
    except urllib.error.HTTPError as error:
        text, status, found = error.read(), error.code, error.headers
    try:
        return status, json.loads(text), found
    except ValueError:
        return status, text.decode(), found


def announce(address: str, num_bytes: int) -> int:
    """Return the status of a request whose header announces a body of this length."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.putrequest("POST", "/api/ask")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(num_bytes))
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def question(*turns: str, image: bytes | None = None, cell: str = "") -> dict[str, Any]:
    roles = ("user", "assistant")
    content = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    encoded = base64.b64encode(image or worlds.image(1000)).decode()
    return {"cell": cell, "image": encoded, "turns": content}


def test_the_page_gives_the_same_answers_as_the_evaluation(
    address: str, trained_world: Path
) -> None:
    status, found, headers = ask(address, "/api/cells")
    assert (status, found["language"]) == (200, "eu")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    (cell,) = found["cells"]
    status, answer, _ = ask(address, "/api/ask", question(QUESTION, cell=cell))
    assert status == 200
    assert answer["text"] == sorted(evaluated(trained_world).items())[0][1]
    more = question(QUESTION, "bat", "Eta hau?", cell=cell)
    assert ask(address, "/api/ask", more)[0] == 200
    for path in ("/", "/chat.js", "/chat.css"):
        status, text, _ = ask(address, path)
        assert status == 200
        assert "http" not in text.replace("http-equiv", ""), "nothing from elsewhere"


def test_the_page_rejects_invalid_and_foreign_requests(address: str) -> None:
    (cell,) = ask(address, "/api/cells")[1]["cells"]
    good = question(QUESTION, cell=cell)
    assert ask(address, "/api/cells", Host="evil.example")[0] == 421
    assert ask(address, "/api/ask", good, Origin="http://evil.example")[0] == 403
    assert ask(address, "/api/ask", good, Origin="null")[0] == 403
    assert ask(address, "/api/ask", good, Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(address, "/api/ask", good, Content_Type="text/plain")[0] == 415
    assert announce(address, 25_000_000) == 413
    assert ask(address, "/api/ask", b"{")[0] == 422
    assert ask(address, "/api/ask", question(QUESTION, cell="nobody"))[0] == 404
    assert ask(address, "/api/ask", question(QUESTION, image=b"none", cell=cell))[0] == 422
    assert ask(address, "/api/ask", good | {"image": "***"})[0] == 422
    assert ask(address, "/api/ask", question(QUESTION, "bat", cell=cell))[0] == 422
    assert ask(address, "/api/ask", good | {"turns": []})[0] == 422
    status, refusal, _ = ask(address, "/api/ask", question("a" * 4001, cell=cell))
    assert (status, refusal["error"]) == (
        422,
        "a turn has 4001 characters; the maximum is 4000",
    )
    assert (
        ask(address, "/api/ask", good | {"turns": [{"role": "system", "content": "x"}]})[0] == 422
    )
    for path in ("/../setup.cfg", "/%2e%2e%2fsetup.cfg", "/chat_page.py", "/docs"):
        assert ask(address, path)[0] == 404
    assert ask(address, "/api/ask", good)[0] == 200
