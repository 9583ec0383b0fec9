"""A served model is asked the whole benchmark, several questions at a time, none of them twice."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.predictions import read_predictions
from evaluation.benchmarks.prompting import load_prompts
from evaluation.run import main
from tests.support.evaluation_doubles import LANGUAGES, small_benchmark


class Server(BaseHTTPRequestHandler):
    """Knows the answer to each question about each image; refuses after so many."""

    known: dict[tuple[str, bytes], str]
    meeting: threading.Barrier
    asked: list[dict[str, Any]]
    answered: list[dict[str, Any]]
    patience: int

    def do_POST(self) -> None:
        kind, body = type(self), json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind.asked.append(body)
        if len(kind.asked) > kind.patience:
            self.send_error(400, "enough")
            return
        if len(kind.asked) <= kind.meeting.parties:
            kind.meeting.wait(timeout=30)  # breaks unless so many come at once
        kind.answered.append(body)
        image, words = body["messages"][0]["content"]
        encoded = image["image_url"]["url"].partition("base64,")[2]
        reply = kind.known.get((words["text"], base64.b64decode(encoded)), "xyz")
        choice = {"message": {"content": f" {reply}\n"},
                  "finish_reason": "length" if reply == "xyz" else "stop"}  # fmt: skip
        usage = {"prompt_tokens": 9, "completion_tokens": len(reply)}
        content = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        del args


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return small_benchmark(tmp_path / "data")


@pytest.fixture
def server(manifest: Path) -> Iterator[tuple[str, type[Server]]]:
    book = load_prompts(LANGUAGES)
    known = {(book.question_text(item), item.image): item.answers[0]
             for item in load_benchmark(manifest)}  # fmt: skip
    handler = type("One", (Server,), {"known": known, "meeting": threading.Barrier(4), "asked": [],
                                      "answered": [], "patience": 10_000})  # fmt: skip
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/v1", handler
    served.shutdown()
    served.server_close()


def evaluate(url: str, manifest: Path, out: Path) -> int:
    return main(["--endpoint", url, "--model", "served", "--benchmark", str(manifest),
                 "--batch-size", "4", "--max-new-tokens", "7", "--out", str(out)])  # fmt: skip


def test_a_served_model_is_evaluated(
    server: tuple[str, type[Server]], manifest: Path, tmp_path: Path
) -> None:
    url, handler = server
    assert evaluate(url, manifest, tmp_path / "out") == 0
    assert {(body["model"], body["max_tokens"], body["temperature"]) for body in handler.asked} == {
        ("served", 7, 0)
    }
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["vqa/eu/accuracy"]["value"] == metrics["mc/en/accuracy"]["value"] == 100
    assert metrics["vqa/eu/accuracy"]["blind"] == 0  # nothing is known of the blank image
    rows = read_predictions(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert all(row["num_tokens"] == len(row["output"]) and not row["is_truncated"] for row in rows)


def test_a_stopped_evaluation_asks_nothing_twice(
    server: tuple[str, type[Server]],
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, handler = server
    handler.patience = 50
    assert evaluate(url, manifest, tmp_path / "out") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "HTTP 400" in told
    assert "enough" in told
    assert not (tmp_path / "out").exists()
    assert len(handler.asked) < 60  # the others in the queue are not asked any more
    handler.patience = 10_000
    assert evaluate(url, manifest, tmp_path / "out") == 0
    answered = [json.dumps(body, sort_keys=True) for body in handler.answered]
    assert len(answered) == len(set(answered)) > 50
