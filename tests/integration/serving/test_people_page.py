"""The annotation page in a real browser, and the requests that it rejects."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn

from evaluation.benchmarks.images import open_images
from evaluation.people import run
from evaluation.people.measures import preferences
from evaluation.people.page import build_app
from evaluation.people.store import AnnotationStore
from evaluation.people.tasks import Task, TaskKind
from tests.support.browser import check_accessibility, check_layout, open_browser
from tests.support.comparisons import comparison_of
from tests.support.doubles import write_shard, write_source
from tests.support.small_world import image

pytestmark = pytest.mark.slow
NUM_TASKS = 6


def tasks() -> list[Task]:
    return [
        Task(
            task_id=f"vqa/{i}",
            kind=TaskKind.COMPARE,
            language="eu",
            image_key=f"p{i}",
            question=f"Zer da hau, {i}?",
            content={"general": f"txakurra {i}", "adapted": f"<b>katua</b> {i}"},
        )
        for i in range(NUM_TASKS)
    ]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    samples = [(f"p{i}", {"messages": []}, image(i, size=96)) for i in range(NUM_TASKS)]
    entry = write_shard(folder / "p-000000.tar", samples)
    return Path(write_source(folder, "images", [entry], language="eu"))


@pytest.fixture
def page(tmp_path: Path, images: Path) -> Iterator[tuple[str, AnnotationStore]]:
    """Address and store of a page that is served over HTTP."""
    store = AnnotationStore.create(
        tmp_path / "people.db", tasks(), overlap=3, comparison=comparison_of(tasks())
    )
    app = build_app(store, open_images(images), language="eu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}", store
    server.should_exit = True
    thread.join(timeout=10)


def ask(address: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        named = {"Content-Type": "application/json"} | named
    connection.request("GET" if data is None else "POST", path, body=data, headers=named)
    response = connection.getresponse()
    return response.status, response.read()


def test_invalid_input_path_traversal_and_foreign_origins_are_rejected(
    page: tuple[str, AnnotationStore],
) -> None:
    address, store = page
    answers = {"content": "left", "language": "tie", "overall": "right"}
    good = {"annotator": "ane", "task_id": "vqa/0", "answers": answers}
    assert ask(address, "/api/judge", good, Origin="http://evil.example")[0] == 403
    assert ask(address, "/api/judge", good, Host="evil.example")[0] == 421
    assert ask(address, "/api/judge", good, Content_Type="text/plain")[0] == 415
    assert ask(address, "/api/judge", b"{")[0] == 422
    for change in (
        {"annotator": ""},
        {"annotator": "x" * 61},
        {"annotator": "a\nb"},
        {"task_id": "vqa/99"},
        {"task_id": "../people.db"},
        {"answers": {"overall": "left"}},
        {"answers": answers | {"overall": "general"}},
        {"answers": answers | {"overall": "DROP TABLE judgements"}},
        {"answers": answers | {"more": "left"}},
        {"answers": answers | {"overall": "x" * 5000}},
    ):
        assert ask(address, "/api/judge", good | change)[0] == 422, change
    for path in ("/people.db", "/../people.db", "/%2e%2e/people.db", "/..%2fpeople.db", "/page.py"):
        assert ask(address, path)[0] == 404, path
    for task in ("vqa/99", "../../etc/passwd", "%2e%2e%2fpeople.db"):
        assert ask(address, f"/api/image?task={task}")[0] == 422, task
    assert not store.judgements()
    assert ask(address, "/api/judge", good)[0] == 200
    assert ask(address, "/api/image?task=vqa/0")[1] == image(0, size=96)
    for name in ("general", "adapted"):
        shown = ask(address, "/api/next", {"annotator": "jon"})[1].decode()
        assert name not in shown, "names are hidden"


def wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "the page did not reach the expected state"
        time.sleep(0.02)


def log_in(view: Any, address: str, name: str) -> None:
    view.goto(address)
    view.fill("#name", name)
    view.click("#begin")
    view.wait_for_selector("#task:not([hidden])")


def judge_all_for_the_dog(view: Any) -> None:
    """Prefer the reply about the dog on whichever side it is, with the keyboard only."""
    for _ in range(NUM_TASKS):
        before = view.inner_text("#progress")
        side = "1" if "txakurra" in view.inner_text(".side >> nth=0") else "2"
        for key in (side, "0", side, "Enter"):
            view.keyboard.press(key)
        wait(lambda: view.inner_text("#progress") != before)  # noqa: B023 - in this round


def use_all_other_controls(view: Any) -> None:
    """Use the English page, a missing answer, buttons, undo and skip."""
    view.select_option("#language", "en")
    assert view.inner_text("#send") == "Save"
    view.click("#send")
    assert "answer all questions" in view.inner_text("#error")
    for name in ("content", "language", "overall"):
        view.click(f"button[data-name={name}][data-offer=tie]")
    view.click("#send")
    wait(lambda: view.inner_text("#progress").startswith("1 "))
    view.click("#undo")
    wait(lambda: view.inner_text("#progress").startswith("0 "))
    for done in ("1 ", "2 ", "3 "):
        view.keyboard.press("s")
        wait(lambda: view.inner_text("#progress").startswith(done))  # noqa: B023 - in this round


def test_two_annotators_judge_and_the_results_are_theirs(
    page: tuple[str, AnnotationStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, store = page
    errors: list[str] = []
    with open_browser() as browser:
        first, second = (browser.new_context().new_page() for _ in range(2))
        for view, name in ((first, "Ane"), (second, "Jon")):
            view.on("pageerror", lambda error: errors.append(str(error)))
            log_in(view, address, name)
        assert first.inner_text("#send") == "Gorde"
        wait(lambda: first.evaluate("document.querySelector('#image').naturalWidth") == 96)
        assert "<b>katua</b>" in first.inner_text("#sides"), "shown as text, not as markup"
        check_layout(first)
        check_accessibility(first)
        judge_all_for_the_dog(first)
        use_all_other_controls(second)
        assert first.is_visible("#done")
        assert second.is_visible("#done"), "the other tasks went to Ane"
    assert not errors
    _, language, overall = preferences(store)
    assert (overall.num_wins, overall.num_losses, overall.num_skipped) == (6, 0, 3)
    assert (overall.first, overall.num_judged) == ("general", 6)
    assert language.num_ties == 6
    out = tmp_path / "out.json"
    assert run.main(["--db", str(store.path), "--export", "labelstudio", str(out)]) == 0
    assert sum(len(task["annotations"]) for task in json.loads(out.read_text())) == 9
    capsys.readouterr()
    assert run.main(["--db", str(store.path), "--results"]) == 0
    assert json.loads(capsys.readouterr().out)[2]["populations"][0]["share"]["value"] == 1


def test_keys_do_what_the_focused_control_says_and_a_reload_forgets_nothing(
    page: tuple[str, AnnotationStore],
) -> None:
    address, store = page
    with open_browser() as browser:
        view = browser.new_context().new_page()
        log_in(view, address, "Ane")
        view.focus("#language")
        view.keyboard.press("s")
        view.select_option("#language", "en")
        assert "which reply is more correct" in view.inner_text("#meaning")
        tie = "button[data-name=content][data-offer=tie]"
        view.focus(tie)
        view.keyboard.press("Space")
        assert view.get_attribute(tie, "aria-pressed") == "true"
        assert view.evaluate("document.activeElement.dataset.offer") == "tie", "focus is kept"
        assert view.inner_text("#error") == ""
        assert view.inner_text("#progress").startswith("0 "), "the language was no skip"
        view.reload()
        wait(lambda: view.input_value("#name") == "Ane")
        assert view.input_value("#language") == "en"
        view.click("#begin")
        view.wait_for_selector("#task:not([hidden])")
        assert view.get_attribute(tie, "aria-pressed") == "true", "the started answer is back"
        view.focus("#skip")
        view.keyboard.press("Enter")
        wait(lambda: view.inner_text("#progress").startswith("1 "))
        assert view.inner_text("#error") == "", "Enter pressed the focused button and saved nothing"
        (judged,) = store.judgements()
        assert set(judged.answers.values()) == {"skip"}
        for name in ("content", "language", "overall"):
            view.click(f"button[data-name={name}][data-offer=tie]")
        view.keyboard.press("Enter")  # the focused answer is given already
        wait(lambda: view.inner_text("#progress").startswith("2 "))


def test_a_name_in_another_case_is_no_second_annotator(page: tuple[str, AnnotationStore]) -> None:
    address, _ = page
    answers = {"content": "left", "language": "tie", "overall": "right"}
    good = {"annotator": "Ane", "task_id": "vqa/0", "answers": answers}
    assert ask(address, "/api/judge", good)[0] == 200
    status, body = ask(address, "/api/next", {"annotator": "ane"})
    assert status == 422
    assert "'Ane' has judged tasks already" in json.loads(body)["error"]
    assert ask(address, "/api/next", {"annotator": "Ane"})[0] == 200
    assert ask(address, "/api/next", {"annotator": "Jon"})[0] == 200
