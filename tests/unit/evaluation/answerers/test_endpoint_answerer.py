"""Evaluation of a served model: concurrent requests, and a resume that repeats none of them."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.predictions import read_predictions
from evaluation.benchmarks.prompting import load_prompts
from evaluation.run import main
from tests.support.evaluation_doubles import LANGUAGES, raw_items, write_benchmark


class Server(BaseHTTPRequestHandler):
    """Knows the answers to all questions; refuses requests after a limit."""

    known: dict[tuple[str, bytes], str]
    barrier: threading.Barrier
    asked: list[dict[str, Any]]
    answered: list[dict[str, Any]]
    max_requests: int

    def do_POST(self) -> None:
        kind, body = type(self), json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind.asked.append(body)
        if len(kind.asked) > kind.max_requests:
            self.send_error(400, "limit reached")
            return
        if len(kind.asked) <= kind.barrier.parties:
            kind.barrier.wait(timeout=30)  # breaks unless this many requests are concurrent
        kind.answered.append(body)
        image, text = body["messages"][0]["content"]
        encoded = image["image_url"]["url"].partition("base64,")[2]
        reply = kind.known.get((text["text"], base64.b64decode(encoded)), "xyz")
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
    samples = [(f"p{at:02d}", {"items": raw_items(at)}, png(at)) for at in range(12)]
    return write_benchmark(tmp_path / "data", samples)


def png(at: int) -> bytes:
    """Return a small image, which is sent to the server as it is."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (at, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def server(manifest: Path) -> Iterator[tuple[str, type[Server]]]:
    book = load_prompts(LANGUAGES, style="instructed")  # the default for a foreign model
    known = {(book.question_text(item), item.image): item.answers[0]
             for item in load_benchmark(manifest)}  # fmt: skip
    handler = type("One", (Server,), {"known": known, "barrier": threading.Barrier(4), "asked": [],
                                      "answered": [], "max_requests": 10_000})  # fmt: skip
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/v1", handler
    served.shutdown()
    served.server_close()


def evaluate(url: str, manifest: Path, out: Path) -> int:
    return main(["--endpoint", url, "--model", "served", "--benchmark", str(manifest),
                 "--batch-size", "4", "--max-new-tokens", "7", "--out", str(out)])  # fmt: skip


def test_a_served_model_is_evaluated_with_concurrent_requests(
    server: tuple[str, type[Server]], manifest: Path, tmp_path: Path
) -> None:
    url, handler = server
    assert evaluate(url, manifest, tmp_path / "out") == 0
    assert {(body["model"], body["max_tokens"], body["temperature"]) for body in handler.asked} == {
        ("served", 7, 0)
    }
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["options"]["prompt_style"] == "instructed"
    metrics = written["metrics"]
    assert metrics["vqa/eu/accuracy"]["value"] == metrics["mc/en/accuracy"]["value"] == 100
    assert (
        metrics["vqa/eu/accuracy"]["blind"] == 0
    )  # the server knows no answer about the blank image
    rows = read_predictions(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert all(row["num_tokens"] == len(row["output"]) and not row["is_truncated"] for row in rows)


@pytest.mark.slow
def test_a_resumed_evaluation_repeats_no_request(
    server: tuple[str, type[Server]],
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, handler = server
    handler.max_requests = 50
    assert evaluate(url, manifest, tmp_path / "out") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "HTTP 400" in message
    assert "limit reached" in message
    assert not list((tmp_path / "out").iterdir())
    assert len(handler.asked) < 80  # queued requests are cancelled
    handler.max_requests = 10_000
    assert evaluate(url, manifest, tmp_path / "out") == 0
    answered = [json.dumps(body, sort_keys=True) for body in handler.answered]
    assert len(answered) == len(set(answered)) > 50
