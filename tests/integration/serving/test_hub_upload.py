"""Upload of an export to a loopback hub that speaks the interface of huggingface.co."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import constants

from core.errors import ConfigError
from serving.hub_upload import plan_upload, upload


class Hub(BaseHTTPRequestHandler):
    """Creates repositories and accepts commits of small files; knows one token."""

    created: ClassVar[list[dict[str, Any]]] = []
    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        self._reply(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_loopback":
            self._reply(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self._reply(200, {"url": f"{constants.ENDPOINT}/me/cell"})
        elif self.path == "/api/validate-yaml":
            self._reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(body)["files"]]
            plan = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._reply(200, {"files": plan})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            address = f"{constants.ENDPOINT}/me/cell/commit/1"
            self._reply(200, {"commitUrl": address, "commitOid": "1"})
        else:
            self._reply(404, {"error": self.path})

    def log_message(self, *_: object) -> None:
        """Write nothing."""

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    Hub.created.clear()
    Hub.files.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_loopback")
        yield Hub
        server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "README.md").write_text("---\nlicense: other\n---\n# cell\n")
    (tmp_path / "export" / "config.json").write_text("{}")
    return tmp_path / "export"


def test_an_upload_sends_what_the_dry_run_lists(hub: type[Hub], folder: Path) -> None:
    plan = plan_upload(folder, "me/cell")
    assert plan.endpoint == constants.ENDPOINT
    assert not hub.created, "planning sends nothing"
    assert upload(folder, "me/cell", is_private=True) == f"{constants.ENDPOINT}/me/cell/commit/1"
    (made,) = hub.created
    assert (made["name"], made["organization"], made["visibility"]) == ("cell", "me", "private")
    assert {name: len(content) for name, content in hub.files.items()} == dict(plan.files)
    assert plan.num_bytes == sum(map(len, hub.files.values()))


def test_a_refused_upload_says_what_to_do(
    hub: type[Hub], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(ConfigError, match=r"--push me/cell: .*hf auth login.*export in .*complete"):
        upload(folder, "me/cell", is_private=True)
    assert not hub.files
