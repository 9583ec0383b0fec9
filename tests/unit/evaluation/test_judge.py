"""A judge behind an unreliable endpoint: both orders, retries, cache and bill."""

import json
import math
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError
from core.io.endpoint import Endpoint, EndpointConfig, EndpointError
from evaluation import judge
from evaluation.judge_summary import JudgeReport, JudgeVerdict, judge_record, summarise
from evaluation.people.tasks import Task, TaskKind
from tests.support.comparisons import comparison_of
from tests.support.small_world import image


class Judge(BaseHTTPRequestHandler):
    """Prefers the longer answer; fails as configured by its class attributes."""

    requests: list[dict[str, Any]]
    faults: list[int]
    headers_seen: list[str | None]
    num_unlabelled: int
    finish_reason: str

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = type(self)
        if kind.faults:
            self.send_error(kind.faults.pop(0))
            return
        kind.requests.append(body)
        kind.headers_seen.append(self.headers.get("Authorization"))
        text = body["messages"][1]["content"][-1]["text"]
        a, b = text.partition("Answer A:\n")[2].split("\n\nAnswer B:\n")
        label = "A=B" if len(a) == len(b) else "A>>B" if len(a) > len(b) else "B>>A"
        if kind.num_unlabelled > 0:
            kind.num_unlabelled -= 1
            label = ""
        reply = f"reasons [[{label}]]" if label else "I can't say"
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        choice = {"message": {"content": reply}, "finish_reason": kind.finish_reason}
        content = json.dumps({"choices": [choice], "usage": usage})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *args: Any) -> None:
        del args


@pytest.fixture
def server() -> Iterator[tuple[str, type[Judge]]]:
    handler = type(
        "One",
        (Judge,),
        {
            "requests": [],
            "faults": [],
            "headers_seen": [],
            "num_unlabelled": 0,
            "finish_reason": "stop",
        },
    )
    served = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/v1", handler
    served.shutdown()
    served.server_close()


def task(number: int, first: str, second: str) -> Task:
    return Task(
        task_id=f"vqa/{number}",
        kind=TaskKind.COMPARE,
        language="eu",
        image_key=f"p{number}",
        question=f"Zer da {number}?",
        content={"one": first, "two": second},
    )


def summary_of(verdicts: Sequence[JudgeVerdict], tasks: Sequence[Task]) -> JudgeReport:
    (found,) = summarise(verdicts, judge_record(verdicts, comparison_of(tasks), "judge"))
    return found


def endpoint_of(url: str, folder: Path, waits: list[float] | None = None) -> Endpoint:
    config = EndpointConfig(url=url, model="judge", price_in=2.0, price_out=10.0)
    return Endpoint(config, folder, sleep=[].append if waits is None else waits.append)


def test_both_orders_are_asked_and_the_report_is_right(
    server: tuple[str, type[Judge]], tmp_path: Path
) -> None:
    url, handler = server
    endpoint = endpoint_of(url, tmp_path)
    tasks = [
        task(0, "longer", "short"),
        task(1, "x", "xyz"),
        task(2, "abcdef", "a"),
        task(3, "aa", "bb"),
    ]
    verdicts = [v for one in tasks for v in judge.judge_pair(endpoint, one, image(0, size=16))]
    assert len(handler.requests) == 8
    sent = handler.requests[0]["messages"][1]["content"][0]["image_url"]["url"]
    assert sent.startswith("data:image/png;base64,"), "servers on llama.cpp can't decode WebP"
    assert {request["max_tokens"] for request in handler.requests} == {1024}
    found = summary_of(verdicts, tasks)
    assert found.preferences.num_judged == 4
    assert (found.num_unreadable, found.num_inconsistent) == (0, 0)
    assert found.reward == pytest.approx(25)
    assert found.reward_low is None, "four images are too few for an interval"
    assert found.preferences.populations[0].win_rate.value == 0.5
    assert found.weighted_elo.value == pytest.approx(400 * math.log10(13 / 7))
    assert found.first_position == 50
    assert endpoint.bill.cost == pytest.approx(8 * (100 * 2 + 10 * 10) / 1e6)
    again = endpoint_of(url, tmp_path)
    assert [v for one in tasks for v in judge.judge_pair(again, one, image(0, size=16))] == verdicts
    assert (again.bill.asked, again.bill.cached, again.bill.cost) == (0, 8, 0.0)


def test_a_reply_may_be_limited_to_the_context_of_the_server(
    server: tuple[str, type[Judge]], tmp_path: Path
) -> None:
    url, handler = server
    judge.judge_pair(endpoint_of(url, tmp_path), task(0, "longer", "short"), None, max_tokens=64)
    assert {request["max_tokens"] for request in handler.requests} == {64}


def test_a_judge_that_always_prefers_the_first_answer_is_detected() -> None:
    tasks = [task(i, "a", "b") for i in range(10)]
    verdicts = [
        JudgeVerdict(task_id=one.task_id, image_key="", first=first, label="A>B", reply="")
        for one in tasks
        for first in ("one", "two")
    ]
    found = summary_of(verdicts, tasks)
    assert (found.num_inconsistent, found.first_position) == (10, 100)
    assert (found.reward, found.weighted_elo.value) == (0, 0)
    assert found.preferences.populations[0].win_rate.value == 0


def test_server_errors_are_retried_and_refusals_are_raised(
    server: tuple[str, type[Judge]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = server
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    waits: list[float] = []
    endpoint = endpoint_of(url, tmp_path, waits)
    handler.faults += [503, 429, 500]
    judge.judge_pair(endpoint, task(0, "a", "bb"), None)
    assert waits == [1.0, 4.0, 15.0]
    assert endpoint.bill.retries == 3
    assert handler.headers_seen == ["Bearer secret-key"] * 2
    cached = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "secret-key" not in cached
    handler.faults += [401]
    with pytest.raises(EndpointError, match="HTTP 401"):
        judge.judge_pair(endpoint, task(1, "a", "bb"), None)
    handler.faults += [503] * 5
    with pytest.raises(EndpointError, match="5 attempts"):
        judge.judge_pair(endpoint, task(2, "a", "bb"), None)


def test_replies_that_reach_the_token_limit_are_counted(
    server: tuple[str, type[Judge]], tmp_path: Path
) -> None:
    url, handler = server
    endpoint = endpoint_of(url, tmp_path)
    whole = judge.judge_pair(endpoint, task(0, "a", "bb"), None)
    handler.finish_reason = "length"
    cut = judge.judge_pair(endpoint, task(1, "a", "bb"), None)
    assert [verdict.is_truncated for verdict in (*whole, *cut)] == [False, False, True, True]
    found = summary_of([*whole, *cut], [task(0, "a", "bb"), task(1, "a", "bb")])
    assert (found.num_truncated, found.num_unreadable) == (2, 0)


def test_a_missing_label_is_requested_once_and_then_counts_as_unreadable(
    server: tuple[str, type[Judge]], tmp_path: Path
) -> None:
    url, handler = server
    endpoint = endpoint_of(url, tmp_path)
    handler.num_unlabelled = 1
    first, second = judge.judge_pair(endpoint, task(0, "a", "bb"), None)
    assert (first.label, second.label) == ("B>>A", "A>>B")
    handler.num_unlabelled = 4
    silent = judge.judge_pair(endpoint, task(1, "a", "bb"), None)
    assert [verdict.label for verdict in silent] == ["", ""]
    tasks = [task(0, "a", "bb"), task(1, "a", "bb")]
    found = summary_of([first, second, *silent], tasks)
    assert (found.num_unreadable, found.preferences.num_skipped, found.reward) == (2, 1, -100)
    with pytest.raises(ConfigError, match="no verdict of the judge is readable"):
        summary_of(silent, tasks)
    assert judge.read_label("[[A>B]] no, rather [[B>A]]") == "B>A"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8000", "http://key@host/v1"])
def test_invalid_endpoint_urls_are_rejected(url: str) -> None:
    with pytest.raises(ConfigError, match=r"must be an http\(s\) URL"):
        EndpointConfig(url=url, model="x")
