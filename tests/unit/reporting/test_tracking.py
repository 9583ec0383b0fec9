"""Tracking: one parent per grid and one child per stage, without duplicates, across outages."""

import contextlib
import dataclasses
import json
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.cli
import pytest
from click.testing import CliRunner
from sqlalchemy.exc import OperationalError

from callbacks.metrics_log import JsonlLogger
from core.errors import ConfigError
from experiments import ui
from pipeline.store.records import load_stage
from pipeline.store.states import State
from reporting.records import load_grid
from reporting.tracking import local_store, payload, server
from reporting.tracking.client import MlflowClient, MlflowException, short_reason
from reporting.tracking.grid_tracker import GridTracker
from reporting.tracking.registration import tracked_registration
from reporting.tracking.upload_notes import RUN_FILE
from tests.support import fake_grid
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow  # creating an MLflow database takes 5 s
_TWO_CELLS = [fake_grid.mix_axes()[at] for at in (0, 1)]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, created once because the creation takes seconds."""
    root = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        GridTracker(root, "other", "embedded")
    return root / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    fake_grid.make_grid(tmp_path, cells=_TWO_CELLS, num_images=12)
    return tmp_path


@pytest.fixture(scope="module")
def tracked(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that was tracked once; tests do not modify it."""
    root = tmp_path_factory.mktemp("tracked")
    shutil.copy(empty_store, root / "mlflow.db")
    fake_grid.make_grid(root, cells=_TWO_CELLS, num_images=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        _track(root)
    return root


def _stages(root: Path, experiment: str = "mix_ablation") -> list[Path]:
    return [stage.folder for stage in load_grid(root, experiment, "embedded").stages()]


def _track(root: Path, experiment: str = "mix_ablation") -> GridTracker:
    tracker = GridTracker(root, experiment, "embedded")
    tracker.ensure_parent_run()
    for folder in _stages(root, experiment):
        tracker.ensure_stage_run(folder)
        tracker.finish_stage(folder)
    tracker.finish()
    return tracker


def _runs(root: Path, experiment: str = "mix_ablation") -> list[Any]:
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    found = client.get_experiment_by_name(f"{experiment}-embedded")
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def _history(tracker: GridTracker, run_id: str, name: str) -> list[tuple[int, float]]:
    points = tracker._client.get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def _owner(folder: Path) -> str:
    return str(json.loads((folder / RUN_FILE).read_text())["owner"])


def test_parent_and_one_child_per_stage(tracked: Path) -> None:
    runs = _runs(tracked)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run not in parents]
    assert (len(parents), len(children)) == (1, 6)  # both cells share features and align
    parent_ids = {run.data.tags["mlflow.parentRunId"] for run in children}
    assert parent_ids == {parents[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_mlflow_keeps_the_first_registration(root: Path) -> None:
    first = load_grid(root, "mix_ablation", "embedded").registration
    assert first is not None
    _track(root)
    path = root / "grids" / "mix_ablation-embedded" / "grid.json"
    later = {"sha256": "0" * 64, "time_utc": "2026-01-01T00:00:00.000000+00:00"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "registration": later}))
    _track(root)
    name = "mix_ablation-embedded"
    assert tracked_registration(root, name, experiment_name=name) == first
    assert tracked_registration(root, "another", experiment_name=name) is None


def test_evaluation_carries_axes_scores_and_artifacts(tracked: Path) -> None:
    folder = next(f for f in _stages(tracked) if f.parent.name == "evaluate")
    run = next(run for run in _runs(tracked) if run.info.run_id == _owner(folder))
    axes = {"target_share": "0.0", "text_only": "false", "backbone": "general", "seed": "0"}
    assert axes.items() <= run.data.params.items()
    score = load_stage(folder).scores["vqa/eu/accuracy"]
    assert run.data.metrics["vqa/eu/accuracy"] == score.value
    assert run.data.metrics["vqa/eu/accuracy_low"] == score.ci_low
    assert run.data.metrics["vqa/eu/accuracy_majority"] == score.majority
    client = MlflowClient(f"sqlite:///{tracked}/mlflow.db")
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config", "data.json", "versions.json", "predictions", "items.json"} <= names


def test_running_everything_again_changes_nothing(
    tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = {run.info.run_id: run.data.metrics for run in _runs(tracked)}
    again = _track(tracked)
    assert {run.info.run_id: run.data.metrics for run in _runs(tracked)} == before
    folder = next(f for f in _stages(tracked) if f.parent.name == "align")
    steps = [step for step, _ in _history(again, _owner(folder), "train/loss")]
    assert steps == list(range(9, 300, 10))
    curve = "over_share/vqa/eu/accuracy"
    assert [step for step, _ in _history(again, again.parent_id, curve)] == [0, 20]


def test_shared_stage_has_only_what_its_cells_agree_on(tracked: Path) -> None:
    folder = next(f for f in _stages(tracked) if f.parent.name == "align")
    run = next(run for run in _runs(tracked) if run.info.run_id == _owner(folder))
    assert "target_share" not in run.data.params
    assert run.data.params["backbone"] == "general"


def test_resumed_stage_continues_its_run_without_duplicates(root: Path) -> None:
    folder = next(f for f in _stages(root) if f.parent.name == "align")
    status = json.loads((folder / "status.json").read_text())
    _set_state(folder, status, "running")
    (folder / "metrics.jsonl").unlink()
    tracker = GridTracker(root, "mix_ablation", "embedded")
    tracker.ensure_parent_run()
    tracker.ensure_stage_run(folder)
    for step in range(6):
        JsonlLogger(folder).log_metrics({"train/loss": float(step)}, step=step)
        tracker.sync(folder)
    _set_state(folder, status, "interrupted")
    tracker.finish_stage(folder)
    run_id = _owner(folder)
    assert tracker._client.get_run(run_id).info.status == "KILLED"

    _set_state(folder, status, "running")
    later = GridTracker(root, "mix_ablation", "embedded")
    later.ensure_stage_run(folder)
    assert later._client.get_run(run_id).info.status == "RUNNING"
    logger = JsonlLogger(folder)
    for step in range(4, 9):  # resumed from step 4, so that two steps are repeated
        logger.log_metrics({"train/loss": float(step)}, step=step)
    later.sync(folder)
    assert _history(later, run_id, "train/loss") == [(x, float(x)) for x in range(9)]
    assert _owner(folder) == run_id
    later.ensure_parent_run()
    assert later.parent_id == tracker.parent_id


def test_incomplete_line_is_read_once_it_is_complete(root: Path) -> None:
    path = root / "metrics.jsonl"
    path.write_text('{"step": 1, "time": 0, "metrics": {}}\n{"step": 2, ')
    lines, position = payload.new_lines(path, {"inode": 0, "offset": 0})
    assert [line["step"] for line in lines] == [1]
    with path.open("a") as file:
        file.write('"time": 0, "metrics": {}}\n')
    lines, _ = payload.new_lines(path, position)
    assert [line["step"] for line in lines] == [2]


def test_stage_of_another_grid_gets_a_light_copy(root: Path) -> None:
    fake_grid.make_grid(root, "smoke", cells=_TWO_CELLS[:1], num_images=12)
    folder = next(f for f in _stages(root, "smoke") if f.parent.name == "evaluate")
    GridTracker(root, "mix_ablation", "embedded").ensure_stage_run(folder)
    tracker = GridTracker(root, "smoke", "embedded")
    for _ in range(2):
        tracker.ensure_stage_run(folder)
    (copy,) = (run for run in _runs(root, "smoke") if "reused_from" in run.data.tags)
    original = tracker._client.get_run(_owner(folder))
    assert copy.data.tags["reused_from"] == original.info.run_id
    assert copy.data.metrics == original.data.metrics
    assert copy.data.params == original.data.params
    assert copy.data.tags["mlflow.parentRunId"] == tracker.parent_id


def test_run_deleted_in_the_browser_is_created_again(root: Path) -> None:
    folder = _stages(root)[0]
    tracker = GridTracker(root, "mix_ablation", "embedded")
    tracker.ensure_stage_run(folder)
    deleted = _owner(folder)
    tracker._client.delete_run(deleted)
    tracker.finish_stage(folder)
    assert _owner(folder) != deleted
    assert tracker._client.get_run(_owner(folder)).info.status == "FINISHED"


@pytest.mark.parametrize("kind", ["evaluate", "grid"])
def test_runs_that_mlflow_gc_removed_come_back_once(root: Path, kind: str) -> None:
    """The run of a grid is removed without its children, which used to be copied then."""

    def content() -> list[tuple[Any, ...]]:
        found, runs = MlflowClient(uri), _runs(root)
        parents = {run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags}
        assert len(parents) == 1
        assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {None, *parents}
        return sorted(
            (
                run.info.run_name, run.info.status, sorted(run.data.metrics.items()),
                sorted(run.data.params.items()), len(run.inputs.dataset_inputs),
                sorted(item.path for item in found.list_artifacts(run.info.run_id)),
            )
            for run in runs
        )  # fmt: skip

    uri = f"sqlite:///{root}/mlflow.db"
    _track(root)
    before = content()
    removed = [run for run in _runs(root) if kind in run.info.run_name.split("(")[-1]]
    assert len(removed) == (2 if kind == "evaluate" else 1)
    for run in removed:
        MlflowClient(uri).delete_run(run.info.run_id)
    words = ["gc", "--backend-store-uri", uri, "--tracking-uri", uri]
    result = CliRunner().invoke(mlflow.cli.cli, words)
    assert result.exit_code == 0, result.output
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database:
        rows = {name for (name,) in database.execute("select run_uuid from runs")}
    assert not rows & {run.info.run_id for run in removed}
    for _ in range(2):
        _track(root)
        assert content() == before
    kept = {run.info.run_id for run in _runs(root)} & rows
    assert kept == rows, "no other run was replaced"


def test_failed_stage_is_tagged_with_its_error(root: Path) -> None:
    fake_grid.make_grid(root, "broken", cells=[fake_grid.mix_axes()[2]], unfinished=1)
    tracker = _track(root, "broken")
    folder = next(f for f in _stages(root, "broken") if f.parent.name == "instruct")
    run = tracker._client.get_run(_owner(folder))
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "DataError: shard is missing")


def test_outage_delays_but_loses_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = next(f for f in _stages(root) if f.parent.name == "align")
    tracker = GridTracker(root, "mix_ablation", "embedded")
    tracker.ensure_parent_run()
    tracker.ensure_stage_run(folder)
    fake_grid.write_log(folder, range(300, 310))
    with monkeypatch.context() as patch:
        patch.setattr(tracker._client, "log_batch", _unreachable)
        tracker.sync(folder)
    assert "will be retried" in caplog.text
    assert tracker.is_behind
    tracker.sync(folder)  # the server is not contacted during the pause
    assert [step for step, _ in _history(tracker, _owner(folder), "train/loss")][-1] < 300
    tracker.silent_until = 0.0
    tracker.sync(folder)
    steps = [step for step, _ in _history(tracker, _owner(folder), "train/loss")]
    assert steps == [*range(9, 300, 10), *range(300, 310)]


def test_a_reason_is_one_line_even_of_an_error_without_a_message() -> None:
    assert short_reason(OSError()) == "OSError"
    assert short_reason(OSError("full\nand more")) == "full"
    full = OperationalError("UPDATE", {}, sqlite3.OperationalError("database or disk is full"))
    error = MlflowException("(raised as a result of a query)\nand more")
    error.__cause__ = full
    assert short_reason(full) == short_reason(error) == "database or disk is full"


def test_store_that_cannot_be_opened_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://server")
    with pytest.raises(ConfigError, match="nonsense://server"):
        GridTracker(tmp_path, "mix_ablation", "embedded")


def test_curves_are_named_by_the_varying_axes(tmp_path: Path) -> None:
    cells = fake_grid.connector_axes((0.0, 0.2))
    fake_grid.make_grid(tmp_path, "connector", cells=cells, num_images=4)
    curves = payload.curves(load_grid(tmp_path, "connector", "embedded"))
    name = "over_share/vqa/eu/accuracy/kind_mlp2x_gelu-num_steps_1200"
    assert list(curves[name]) == [0, 20]
    assert len([key for key in curves if key.startswith("over_share/vqa/eu/accuracy/")]) == 6


def test_evaluation_has_every_axis_as_a_parameter(tmp_path: Path) -> None:
    cells = fake_grid.connector_axes()[:2]
    fake_grid.make_grid(tmp_path, "connector", cells=cells, num_images=4)
    grid = load_grid(tmp_path, "connector", "embedded")
    stage = grid.cells[1].stages["evaluate"]
    params = payload.stage_params(stage, grid.cells_of(stage.address))
    assert params["model.connector.kind"] == "mlp2x_gelu"
    assert params["instruct.num_steps"] == "300"
    cells = [dataclasses.replace(one, fields={"align.num_steps": 600}) for one in grid.cells[:2]]
    assert payload.stage_params(stage, cells)["align.num_steps"] == "600"
    cells[1] = dataclasses.replace(cells[1], fields={"align.num_steps": 7})
    assert "align.num_steps" not in payload.stage_params(stage, cells)


def test_names_are_valid_for_mlflow() -> None:
    assert payload.valid_name("vqa/eu/accuracy") == "vqa/eu/accuracy"
    assert payload.valid_name("share[x]=3%") == "share_x__3_"


def test_changed_values_are_parameters_and_data_are_inputs(root: Path) -> None:
    """Two grids that differ in a setting alone could not be told apart in a comparison."""
    path = root / "grids" / "mix_ablation-embedded" / "grid.json"
    described = json.loads(path.read_text())
    described["overrides"] = ["instruct.num_steps=700", "instruct.optim={lr: 0.01}", "cell.seed=1"]
    described["common"] = {"instruct.num_steps": 700, "instruct.optim.lr": 0.01, "align.x": 2}
    path.write_text(json.dumps(described))
    tracker = _track(root)
    changed = {"instruct.num_steps": "700", "instruct.optim.lr": "0.01"}
    for run in _runs(root):
        assert changed.items() <= run.data.params.items()
        assert "align.x" not in run.data.params
    described["common"]["instruct.num_steps"] = 800  # MLflow keeps what it has
    path.write_text(json.dumps(described))
    assert not _track(root).is_behind
    folder = next(f for f in _stages(root) if f.parent.name == "evaluate")
    stage = load_stage(folder)
    manifests = {path: sha for path, sha in stage.data.items() if path.endswith(".manifest.json")}
    inputs = tracker._client.get_run(_owner(folder)).inputs.dataset_inputs
    found = {one.dataset.name: one.dataset.digest for one in inputs}
    assert found == {Path(p).name.split(".")[0]: sha[:36] for p, sha in manifests.items()}
    assert found
    assert {tag.value for one in inputs for tag in one.tags} == {"evaluation"}


def test_ui_links_experiments_and_a_comparison(tracked: Path) -> None:
    ((number, name, runs),) = [
        one for one in local_store.newest_evaluations(tracked, 12) if one[1].startswith("mix")
    ]
    assert name == "mix_ablation-embedded"
    evaluations = [f for f in _stages(tracked) if f.parent.name == "evaluate"]
    assert sorted(runs) == sorted(_owner(folder) for folder in evaluations)
    links = list(ui._links(tracked, "http://127.0.0.1:5000"))
    assert f"  {name}: http://127.0.0.1:5000/#/experiments/{number}/runs" in links
    assert any("compare-runs?runs=" in link and runs[0] in link for link in links)
    assert len(local_store.newest_evaluations(tracked, 1)[-1][2]) <= 1


def test_ui_opens_our_database(root: Path) -> None:
    command = server.server_command(root, 5001)
    assert f"sqlite:///{root}/mlflow.db" in command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "experiments.ui" in server.ui_command(root)


def test_ui_without_runs_reports_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert ui.main(["--root", str(tmp_path)]) == 2
    assert "run a grid first" in " ".join(capsys.readouterr().err.split())


def test_interrupted_grid_is_marked(root: Path) -> None:
    tracker = GridTracker(root, "mix_ablation", "embedded")
    tracker.finish(state=State.INTERRUPTED)
    assert tracker._client.get_run(tracker.parent_id).info.status == "KILLED"


def _set_state(folder: Path, status: dict[str, Any], state: str) -> None:
    (folder / "status.json").write_text(json.dumps({**status, "state": state}))


def _unreachable(*args: Any, **kwargs: Any) -> None:
    raise MlflowException("connection refused")


def test_a_moved_folder_continues_its_runs_and_artifacts(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _track(root)
    before = {run.info.run_id for run in _runs(root)}
    moved = tmp_path_factory.mktemp("moved") / "mlruns"
    shutil.move(root, moved)
    assert local_store.relocate_artifacts(moved) > len(before)
    # A command of its own: MLflow remembers the artifact folders of a process.
    command = ("--root", str(moved))
    process = worlds.start(worlds.REPOSITORY, *command, module="experiments.sync")
    code, output = worlds.finish(process)
    assert code == 0, output
    runs = _runs(moved)
    assert {run.info.run_id for run in runs} == before
    assert all(run.info.artifact_uri.startswith(moved.as_uri()) for run in runs)
    assert not root.exists(), sorted(root.rglob("*"))
    assert local_store.relocate_artifacts(moved) == 0


def test_a_copied_folder_has_runs_of_its_own(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server that both share; in their own databases both continue the same runs."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copy(root / "mlflow.db", folder / "server.db")
    monkeypatch.chdir(folder)
    local = _track(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/server.db")
    original = _track(root)
    copied = folder / "copy"
    shutil.copytree(root, copied)
    copy = _track(copied)
    assert original.parent_id != copy.parent_id
    pairs = zip(_stages(root), _stages(copied), strict=True)
    assert all(_owner(one) != _owner(other) for one, other in pairs)
    assert _track(root).parent_id == original.parent_id
    assert _track(copied).parent_id == copy.parent_id
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert _track(copied).parent_id == local.parent_id


def test_identity_of_moved_copied_and_linked_folders(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    identity = local_store.RootIdentity.of(first)
    (tmp_path / "link").symlink_to(first)
    assert local_store.RootIdentity.of(tmp_path / "link") == identity
    copied = Path(shutil.copytree(first, tmp_path / "copied"))
    copy = local_store.RootIdentity.of(copied)
    assert (copy.server == identity.server, copy.database == identity.database) == (False, True)
    moved = first.rename(tmp_path / "moved")
    assert local_store.RootIdentity.of(moved) == identity
    assert local_store.RootIdentity.of(copied) == copy
    (moved / "root.json").write_text("{")
    assert local_store.RootIdentity.of(moved).server not in (identity.server, copy.server)


def _make_newer(database: Path) -> None:
    """Write the revision of a version of MLflow that is not installed."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.commit()


def _cut(database: Path) -> None:
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", [_make_newer, _cut])
def test_an_unusable_database_is_reported_once(
    root: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """Several trackers of a command, and every call of each, meet the same outage."""
    damage(root / "mlflow.db")
    for _ in range(2):
        assert _track(root).is_behind
    ours = [record for record in caplog.records if record.name == "irudimen.tracking"]
    warnings = [record for record in ours if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, caplog.text


def test_a_database_that_another_process_holds_is_not_called_damaged(root: Path) -> None:
    """Moving it away, the fix for a damaged one, would take it from that process."""
    with contextlib.closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match=r"is held by another process .*locked.*later"):
            local_store.check_database(root)
    local_store.check_database(root)


@pytest.mark.parametrize("content", [b"garbage" * 999, b""])
def test_a_damaged_database_is_a_warning(
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    (root / "mlflow.db").write_bytes(content)
    tracker = _track(root)
    assert tracker.is_behind == bool(content)
    assert ("move it away and run experiments.sync" in caplog.text) == bool(content)
    # MLflow keeps a connection per path and process; a later command is a process of its own.
    later = tmp_path_factory.mktemp("later") / "mlruns"
    shutil.copytree(root, later, ignore=shutil.ignore_patterns("mlflow.db"))
    tracker = _track(later)
    assert not tracker.is_behind
    assert len(_runs(later)) == 1 + len(_stages(later))


def test_a_folder_in_place_of_the_database_is_a_warning_at_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow opened it again and again for minutes, for every client of a command."""
    (root / "mlflow.db").unlink(missing_ok=True)
    (root / "mlflow.db").mkdir()
    began = time.monotonic()
    tracker = _track(root)
    assert tracker.is_behind
    assert "mlflow.db is not a file" in caplog.text
    tracked_registration(root, "mix_ablation-embedded", experiment_name="mix_ablation-embedded")
    with pytest.raises(ConfigError, match=r"is not a file.*move it away"):
        local_store.check_database(root)
    assert time.monotonic() - began < 60


def test_a_folder_that_can_not_be_part_of_an_address_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"what\?: '\?' is not supported"):
        GridTracker(tmp_path / "what?", "mix_ablation", "embedded")
