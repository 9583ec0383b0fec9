"""A shared MLflow server with eight writers and outages stores every point exactly once."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.io.jsonl import read_jsonl
from experiments import sync
from reporting.tracking import payload
from reporting.tracking.upload_notes import RUN_FILE
from tests.support import fake_grid
from tests.support import small_world as worlds
from tests.support.servers import mlflow_server
from tests.support.servers.mlflow_server import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(mlflow_server.why_not()), reason=mlflow_server.why_not() or "here"),
]
_WRITER = "tests.support.servers.mlflow_writer"
_WRITERS = 8
_SECONDS = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with mlflow_server.server(tmp_path_factory.mktemp("server")) as found:
        yield found


def _sync(server: Server, root: Path) -> tuple[int, str]:
    variables = {"MLFLOW_TRACKING_URI": server.uri}
    return worlds.finish(
        worlds.start(
            worlds.REPOSITORY, "--root", str(root), module="experiments.sync", variables=variables
        )
    )


def _start_writer(root: Path, seconds: float, **variables: str) -> worlds.Process:
    return worlds.start(
        worlds.REPOSITORY, str(root), str(seconds), module=_WRITER, variables=variables
    )


def _check(server: Server, root: Path) -> int:
    """Compare the logs of a root with the database and return the number of points."""
    total = 0
    for path in root.glob("store/*/*/metrics.jsonl"):
        run = json.loads((path.parent / RUN_FILE).read_text())["owner"]
        found = Counter(
            (key, step, value, int(when))
            for key, step, value, when in server.rows(
                "SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = %s "
                "AND key LIKE %s", run, "train/%",
            )
        )  # fmt: skip
        expected = Counter(
            (payload.valid_name(name), line["step"], value, int(1000 * line["time"]))
            for line in read_jsonl(path) for name, value in line["metrics"].items()
        )  # fmt: skip
        assert found == expected, path
        assert set(found.values()) == {1}
        total += found.total()
    return total


def test_eight_writers_meet_outages(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    roots = [tmp_path / f"writer{number}" for number in range(_WRITERS)]
    for root in roots:
        fake_grid.make_grid(root, cells=fake_grid.mix_axes()[:1], num_images=4)
    writers = [_start_writer(root, _SECONDS, MLFLOW_TRACKING_URI=server.uri) for root in roots]
    _wait_for_points(server, 200)
    server.stop()
    time.sleep(4.0)
    server.start()
    _wait_for_points(server, 2000)
    server.postgres("stop")
    time.sleep(3.0)
    server.postgres("start")
    outputs = [writer.communicate(timeout=240)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * _WRITERS, outputs
    assert sum("will be retried" in output for output in outputs) >= _WRITERS // 2, (
        "outages were met"
    )
    assert [sync.main(["--root", str(root)]) for root in roots] == [0] * _WRITERS
    points = sum(_check(server, root) for root in roots)
    assert points >= _WRITERS * 2 * 300
    names = server.rows("SELECT count(*) FROM experiments WHERE name = %s", "mix_ablation-embedded")
    assert names == [(1,)]
    parents = "SELECT count(*) FROM tags WHERE key = 'irudimen.root'"
    assert server.rows(parents) == [(_WRITERS,)]
    twice = ("SELECT p.value, a.value, count(*) FROM tags p JOIN tags a ON p.run_uuid = a.run_uuid "
             "WHERE p.key = 'mlflow.parentRunId' AND a.key = 'address' GROUP BY 1, 2 "
             "HAVING count(*) > 1")  # fmt: skip
    assert server.rows(twice) == []


def test_runs_made_during_an_outage_are_uploaded_later(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "offline"
    fake_grid.make_grid(root, cells=fake_grid.mix_axes()[:1], num_images=4)
    server.stop()
    variables = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    code, output = worlds.finish(_start_writer(root, 1.0, **variables))
    assert code == 0, output
    assert output.strip().endswith("behind")
    assert "is unreachable" in output
    assert _sync(server, root)[0] == 1
    server.start()
    first, second = _sync(server, root), _sync(server, root)
    assert (first[0], second[0]) == (0, 0), first[1]
    assert ": uploaded to" in first[1]
    assert _check(server, root) >= 600
    evaluation = next(iter((root / "store" / "evaluate").iterdir()))
    run = json.loads((evaluation / RUN_FILE).read_text())["owner"]
    (place,) = server.rows("SELECT artifact_uri FROM runs WHERE run_uuid = %s", run)
    assert place[0].startswith("mlflow-artifacts:"), "through the server, into the object store"
    assert any(run in name for name in _objects(server))


def _objects(server: Server) -> list[str]:
    import boto3

    keys = mlflow_server.KEYS
    client = boto3.client("s3", endpoint_url=server.s3, region_name=keys["AWS_DEFAULT_REGION"],
                          aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
                          aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"])  # fmt: skip
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=mlflow_server.BUCKET)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def _wait_for_points(server: Server, number: int) -> None:
    end = time.monotonic() + 120
    while server.rows("SELECT count(*) FROM metrics")[0][0] < number:
        if time.monotonic() > end:
            raise TimeoutError(f"{number} points were not written")
        time.sleep(0.2)
