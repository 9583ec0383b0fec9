"""The chat page in a real browser: untrusted texts stay texts, broken uploads are explained."""

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image

from core.errors import DataError
from core.io.images import decode_image
from core.rng import named_rng
from core.samples import Turn
from serving.chat_page.example_images import example_images
from serving.chat_page.server import build_app
from serving.talker import ChatAnswer
from tests.support.browser import check_accessibility, check_layout, open_browser

pytestmark = pytest.mark.slow
CELL = "<b>cell</b>"
BENCHMARK = Path("data/embedded/benchmark_test.manifest.json")
REPLIES = {
    "markup": "<img src=x onerror=\"document.title='bad'\"><script>document.title='bad'</script>",
    "control": "a\x00b\x1b[31m\x7f \ufffd\nc",
    "long": "a" * 20_000,
    "spaces": " \u3000 ",
    "turned": "\u202eabc",
}


class FixedTalker:
    """A cell with a fixed reply to every question."""

    name = CELL

    def ask(self, image: bytes, turns: Sequence[Turn]) -> ChatAnswer:
        decode_image(image)
        if not all(turn.content.strip() for turn in turns):
            raise DataError("no turn may be empty", "turns")
        if (question := turns[-1].content) == "bug":
            raise RuntimeError("a bug")
        text = REPLIES.get(question, f"{len(turns)} turns")
        return ChatAnswer(cell=CELL, text=text, seconds=0, num_tokens=1, is_truncated=False)


@pytest.fixture
def server() -> Iterator[tuple[str, uvicorn.Server]]:
    examples = example_images(BENCHMARK)
    app = build_app([FixedTalker()], language="en", examples=examples)  # type: ignore[list-item]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    wait(lambda: running.started)
    yield f"http://127.0.0.1:{port}", running
    running.should_exit = True
    thread.join(timeout=10)


def wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "the expected state was not reached"
        time.sleep(0.02)


def upload(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "PNG")
    return buffer.getvalue()


def ask(view: Any, text: str) -> str:
    """Ask a question and return the last reply, or the error."""
    before = view.locator(".assistant").count()
    view.fill("#text", text)
    view.press("#text", "Enter")
    wait(lambda: view.is_enabled("#send"))
    if view.locator(".assistant").count() == before:
        return str(view.inner_text("#error"))
    return str(view.locator(".assistant").last.evaluate("box => box.firstChild.textContent"))


def test_texts_are_shown_as_texts_and_problems_are_explained(
    server: tuple[str, uvicorn.Server],
) -> None:
    address, running = server
    errors: list[str] = []
    with open_browser() as browser:
        view = browser.new_context(viewport={"width": 800, "height": 600}).new_page()
        view.on("pageerror", lambda error: errors.append(str(error)))
        view.goto(address)
        wait(lambda: view.locator("h2").count() == 1)
        assert view.inner_text("h2") == CELL
        assert ask(view, "markup") == "Choose an image first."
        view.set_input_files("#file", upload("big.png", b"\x89PNG" + bytes(12_000_000)))
        assert "too large: 12000004 bytes, at most 12000000" in view.inner_text("#error")
        view.set_input_files("#file", upload("<b>x</b>.png", png()[:40]))
        wait(lambda: "not an image that the browser can open" in view.inner_text("#error"))
        assert ask(view, "markup") == "Choose an image first."
        view.set_input_files("#file", upload("<img src=x onerror=alert(1)>.png", png()))
        wait(lambda: view.evaluate("document.querySelector('#image').naturalWidth") == 40)
        assert ask(view, "markup") == REPLIES["markup"]
        assert view.locator("#talks img, #talks script").count() == 0
        assert view.title() == "Irudimen"
        assert ask(view, "control") == "a\u2400b\u241b[31m\u2421 \ufffd\nc"
        assert ask(view, "long") == REPLIES["long"]
        assert ask(view, "turned") == REPLIES["turned"]
        check_layout(view)
        check_accessibility(view)
        check_remembered_turns(view)
        assert ask(view, "bug") == "Error in the server (500); see the output of the command."
        running.should_exit = running.force_exit = True
        wait(lambda: "does not respond" in ask(view, "Zer da hau?"))
    assert not errors


def test_a_photograph_with_too_many_bytes_is_reduced(server: tuple[str, uvicorn.Server]) -> None:
    address, _ = server
    buffer = io.BytesIO()
    noise = named_rng(0, "photograph").bytes(3 * 2400 * 2100)
    Image.frombytes("RGB", (2400, 2100), noise).save(buffer, "PNG", compress_level=0)
    assert len(buffer.getvalue()) > 12_000_000
    with open_browser() as browser:
        view = browser.new_page()
        view.goto(address)
        wait(lambda: view.locator("h2").count() == 1)
        view.set_input_files("#file", upload("photo.png", buffer.getvalue()))
        wait(lambda: view.evaluate("document.querySelector('#image').naturalWidth") == 2048)
        assert view.inner_text("#reduced") == "The image was reduced to 2048 x 1792 pixels."
        assert view.inner_text("#error") == ""
        assert view.get_attribute("#image", "alt") == "photo.png"
        assert ask(view, "Zer da hau?") == "1 turns", "the server decodes it"
        view.set_input_files("#file", upload("small.png", png()))
        wait(lambda: view.evaluate("document.querySelector('#image').naturalWidth") == 40)
        assert view.inner_text("#reduced") == ""


def test_an_example_image_is_chosen_with_the_keyboard(server: tuple[str, uvicorn.Server]) -> None:
    address, _ = server
    with open_browser() as browser:
        view = browser.new_page()
        view.goto(address)
        wait(lambda: view.locator("h2").count() == 1)
        pictures = view.locator("#examples img")
        assert pictures.count() == 6
        wait(lambda: pictures.last.evaluate("one => one.naturalWidth") > 0)
        assert len({pictures.nth(number).get_attribute("src") for number in range(6)}) == 6
        assert pictures.last.get_attribute("alt") == "Example image 6"
        view.focus("#examples button >> nth=5")
        view.keyboard.press("Enter")
        assert view.get_attribute("#image", "src") == pictures.last.get_attribute("src")
        assert view.get_attribute("#image", "alt") == "Example image 6"
        assert ask(view, "Zer da hau?") == "1 turns", "the server decodes it"
        view.select_option("#language", "eu")
        assert pictures.first.get_attribute("alt") == "1. adibidea"
        check_layout(view)
        check_accessibility(view)


def test_a_page_without_readable_data_has_no_examples(tmp_path: Path) -> None:
    assert example_images(tmp_path / "none.manifest.json") == []


def check_remembered_turns(view: Any) -> None:
    """A reply without text is accepted, and too many turns are explained."""
    view.check("#remember")
    view.click("#clear")
    assert ask(view, "spaces") == "(empty answer)"
    for number in range(19):
        assert ask(view, "Zer da hau?") == f"{2 * number + 3} turns"
    assert ask(view, "Zer da hau?") == "41 turns"
    assert ask(view, "Zer da hau?") == "The conversation is too long; start a new one."
    view.uncheck("#remember")


def test_a_question_that_is_not_unicode_is_refused(server: tuple[str, uvicorn.Server]) -> None:
    address, _ = server
    turns = [{"role": "user", "content": "\ud83d"}]
    body = json.dumps({"cell": CELL, "image": "", "turns": turns})
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.request("POST", "/api/ask", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert reply.status == 422
    assert json.loads(reply.read())["error"].startswith("turns.0.content: ")
