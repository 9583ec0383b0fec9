"""Forwards the store on disk to MLflow: one parent run per grid, one child run per stage.

The store is the truth and MLflow a view of it, written by one process (the one that runs the grid):
SQLite takes one writer, and a tracking server that is away delays the view but never stops a
training. What was forwarded is noted beside each stage, so that any process can go on; a point that
is sent twice, because an answer was lost, is one point to MLflow (its time is the log's).
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from core.config import fingerprint
from core.errors import ConfigError
from core.io.files import atomic_write_text, locked
from core.process.log import get_logger, without_password
from pipeline.store.records import StageRecord, load_stage, read_json
from pipeline.store.states import State
from reporting.records import GridRecord, load_grid
from reporting.tracking import payload
from reporting.tracking.client import (
    Metric,
    MlflowClient,
    MlflowException,
    Param,
    RunTag,
)

RUN_FILE = "mlflow_run.json"
_TAG = "irudimen"
_STATUS = {State.DONE: "FINISHED", State.FAILED: "FAILED", State.INTERRUPTED: "KILLED"}
_MAX_BATCH = 1000  # MLflow's limit for one log_batch call
_MAX_PARAMS = 100
_PAUSE_S = 30.0
"""A server that did not answer is left alone for so long: every try costs its time limit."""

_log = get_logger("tracking")
P = ParamSpec("P")


def default_store(root: Path) -> str:
    """The tracking URI under a root: MLflow would otherwise look in the working directory."""
    return f"sqlite:///{root.resolve()}/mlflow.db"


def _outage_is_a_warning(
    method: Callable[Concatenate["GridTracker", P], None],
) -> Callable[Concatenate["GridTracker", P], None]:
    """A tracking server that is away must not end a training run; the next call catches up.

    One process of a root at a time: two would make every run twice.
    """

    @wraps(method)
    def guarded(self: "GridTracker", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if time.monotonic() < self.silent_until and method.__name__ != "finish":
            self.is_behind = True
            return
        try:
            with locked(self.root / ".mlflow.lock"):
                method(self, *args, **kwargs)
        except MlflowException as error:
            first_line = str(error).splitlines()[0][:200]
            _log.warning("MLflow: %s did not go through, will try again: %s",
                         method.__name__, first_line)  # fmt: skip
            self.is_behind = True
            self.silent_until = time.monotonic() + _PAUSE_S

    return guarded


class GridTracker:
    """Writes one grid's runs; every method may be called again and changes nothing twice."""

    def __init__(self, root: Path, experiment: str, profile: str) -> None:
        """Open the store, and create database and experiment if this is the first time.

        A server that is away is a warning: what happens meanwhile is forwarded later.

        Raises:
            ConfigError: the address can't be one, or the local database can't be opened.
        """
        self.root = root
        self.experiment = experiment
        self.profile = profile
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or default_store(root)
        self.parent_id = ""
        self.is_behind = False
        """Whether something has not gone through; `python -m experiments.sync` sends the rest."""
        self.silent_until = 0.0
        """The server did not answer: it is not asked before this moment (monotonic)."""
        root.mkdir(parents=True, exist_ok=True)
        try:
            with locked(root / ".mlflow.lock"):
                self._client = MlflowClient(tracking_uri=self.uri)
                _ = self._experiment_id
        except MlflowException as error:
            told, shown = str(error).splitlines()[0][:200], without_password(self.uri)
            if not self.uri.startswith(("http://", "https://")):
                raise ConfigError(
                    f"MLflow store {shown} can't be opened: {told}; start the server, or unset "
                    "MLFLOW_TRACKING_URI to use the local database"
                ) from error
            _log.warning("MLflow server %s is away (%s); what happens meanwhile is kept under %s "
                         "and forwarded later", shown, told, root)  # fmt: skip
            self.is_behind = True
            self.silent_until = time.monotonic() + _PAUSE_S

    @_outage_is_a_warning
    def ensure_parent_run(self) -> None:
        """Find or create the parent run of the grid that `grid.json` describes."""
        self._ensure_parent()

    @_outage_is_a_warning
    def ensure_stage_run(self, stage_dir: Path) -> None:
        """Give a stage its child run: continued if interrupted, a light copy if done elsewhere."""
        stage, note = load_stage(stage_dir), self._owned_note(stage_dir)
        if stage.state is State.DONE:
            self._finish(stage, note)
        else:
            self._client.update_run(note["owner"], status="RUNNING")

    @_outage_is_a_warning
    def sync(self, stage_dir: Path) -> None:
        """Forward the lines that were added to the stage's log since the last call."""
        self._sync(stage_dir, self._owned_note(stage_dir))

    @_outage_is_a_warning
    def finish_stage(self, stage_dir: Path) -> None:
        """Forward the rest: final metrics, artifacts, how it ended."""
        self._finish(load_stage(stage_dir), self._owned_note(stage_dir))

    @_outage_is_a_warning
    def finish(self, summary: Sequence[Path] = (), *, state: State = State.DONE) -> None:
        """Close the grid: its curve as metrics, summary files as artifacts, how it ended."""
        self._ensure_parent()
        self._log_curve(self._grid())
        for path in summary:
            if path.is_dir():
                self._client.log_artifacts(self.parent_id, str(path), "report")
            else:
                self._client.log_artifact(self.parent_id, str(path), "report")
        self._client.set_terminated(self.parent_id, status=_STATUS.get(state, "FAILED"))

    # --- the grid -------------------------------------------------------------------------------

    def _grid(self) -> GridRecord:
        return load_grid(self.root, self.experiment, self.profile)

    @cached_property
    def _experiment_id(self) -> str:
        return self._ensure_experiment(f"{self.experiment}-{self.profile}")

    def _ensure_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            is_local = self.uri == default_store(self.root)
            folder = (self.root.resolve() / "artifacts" / name).as_uri() if is_local else None
            tags = {"mlflow.experimentKind": "custom_model_development"}  # training, not GenAI
            try:
                made = self._client.create_experiment(name, artifact_location=folder, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._ensure_experiment(name)  # another writer was quicker
            return str(made)
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _ensure_parent(self) -> str:
        """The parent's run id; a grid that is run again goes on in the same run."""
        if self.parent_id:
            return self.parent_id
        grid = self._grid()
        # A root is part of the identity: one server may hold the grids of several people.
        root = fingerprint(str(self.root.resolve()))[:16]
        where = f"tags.{_TAG}.grid = '{grid.name}' and tags.{_TAG}.root = '{root}'"
        found = self._client.search_runs([self._experiment_id], filter_string=where, max_results=1)
        if found:
            self.parent_id = found[0].info.run_id
            self._client.update_run(self.parent_id, status="RUNNING")
        else:
            tags = {f"{_TAG}.grid": grid.name, f"{_TAG}.root": root}
            run = self._client.create_run(
                self._experiment_id, run_name=f"{grid.name} (grid)", tags=tags
            )
            self.parent_id = run.info.run_id
        self._log_batch(self.parent_id, tags=payload.grid_tags(grid))
        self._client.log_text(self.parent_id, payload.to_json(grid.versions), "versions.json")
        self._client.log_artifact(self.parent_id, str(grid.folder / "grid.json"))
        return self.parent_id

    def _log_curve(self, grid: GridRecord) -> None:
        """Scores over the share as metrics of the parent, so that MLflow draws the curve itself."""
        new = []
        for name, points in payload.curves(grid).items():
            history = self._client.get_metric_history(self.parent_id, name)
            known = {point.step: point.value for point in history}
            now = int(1000 * max((c.evaluation.ended or 0.0) for c in grid.cells if c.evaluation))
            new += [Metric(name, y, now, x) for x, y in points.items() if known.get(x) != y]
        self._log_batch(self.parent_id, metrics=new)

    # --- one stage ------------------------------------------------------------------------------

    def _create_child(self, stage: StageRecord, *, tags: dict[str, str]) -> str:
        grid = self._grid()
        cells = grid.cells_of(stage.address)
        tags = {"mlflow.parentRunId": self._ensure_parent(), **tags}
        tags |= payload.stage_tags(grid, stage, cells)
        if found := self._find_child(stage, tags):
            return found
        started = int(1000 * stage.started) if stage.started else None
        run = self._client.create_run(
            self._experiment_id, start_time=started, run_name=payload.run_name(stage, cells),
            tags=tags,
        )  # fmt: skip
        self._log_batch(run.info.run_id, params=payload.stage_params(stage, cells))
        return str(run.info.run_id)

    def _find_child(self, stage: StageRecord, tags: dict[str, str]) -> str:
        """A child that a process made and was killed before it could note it, else ""."""
        parent = f"tags.`mlflow.parentRunId` = '{tags['mlflow.parentRunId']}'"
        where = f"{parent} and tags.address = '{stage.address}' and tags.kind = '{stage.kind}'"
        found = self._client.search_runs([self._experiment_id], filter_string=where, max_results=1)
        return str(found[0].info.run_id) if found else ""

    def _owned_note(self, stage_dir: Path) -> dict[str, Any]:
        """The stage's note, with a run to write to."""
        note = self._read_note(stage_dir)
        if not note["owner"]:
            run_id = self._create_child(load_stage(stage_dir), tags={})
            note["owner"] = note["runs"][self._ensure_parent()] = run_id
            self._write_note(stage_dir, note)
        return note

    def _finish(self, stage: StageRecord, note: dict[str, Any]) -> None:
        self._sync(stage.folder, note)
        if stage.state is State.DONE and note["finished"] != stage.ended:
            self._log_result(note["owner"], stage, has_artifacts=True)
            note["finished"] = stage.ended
            self._write_note(stage.folder, note)
        if stage.state in _STATUS:
            self._terminate(note["owner"], stage)
        if stage.state is State.DONE and self._ensure_parent() not in note["runs"]:
            copy_id = self._create_child(stage, tags={"reused_from": note["owner"]})
            self._log_result(copy_id, stage, has_artifacts=False)
            self._terminate(copy_id, stage)
            note["runs"][self.parent_id] = copy_id
            self._write_note(stage.folder, note)

    def _sync(self, stage_dir: Path, note: dict[str, Any]) -> None:
        path = stage_dir / "metrics.jsonl"
        if not path.is_file():
            return
        lines, position = payload.new_lines(path, note["position"])
        metrics = []
        for line in lines:
            for name, value in line["metrics"].items():
                # A resumed stage logs some steps again; MLflow would keep both points.
                if line["step"] > note["last_step"].get(name, -1):
                    note["last_step"][name] = line["step"]
                    key, when = payload.valid_name(name), int(1000 * line["time"])
                    metrics.append(Metric(key, float(value), when, line["step"]))
        self._log_batch(note["owner"], metrics=metrics)
        if position != note["position"]:
            note["position"] = position
            self._write_note(stage_dir, note)

    def _log_result(self, run_id: str, stage: StageRecord, *, has_artifacts: bool) -> None:
        ended = int(1000 * (stage.ended or 0.0))
        grid = self._grid()
        values = payload.final_metrics(stage, grid.target_language)
        self._log_batch(run_id, metrics=[Metric(k, v, ended, 0) for k, v in values.items()])
        if not has_artifacts:
            return
        for name, text in payload.stage_texts(grid, stage).items():
            self._client.log_text(run_id, text, name)
        for path, folder in payload.stage_files(stage):
            self._client.log_artifact(run_id, str(path), folder)
        if stage.predictions.is_file():
            table, name = payload.items_table(stage.predictions)
            with warnings.catch_warnings():  # MLflow trips over a pandas deprecation of its own
                warnings.simplefilter("ignore", DeprecationWarning)
                self._client.log_table(run_id, data=table, artifact_file=name)

    def _terminate(self, run_id: str, stage: StageRecord) -> None:
        ended = int(1000 * stage.ended) if stage.ended else None
        if stage.error:
            self._client.set_tag(run_id, "error", stage.error[:1000])
        self._client.set_terminated(run_id, status=_STATUS[stage.state], end_time=ended)

    def _log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        for start in range(0, len(metrics), _MAX_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _MAX_BATCH])
        pairs = [Param(key, value) for key, value in (params or {}).items()]
        for start in range(0, len(pairs), _MAX_PARAMS):
            self._client.log_batch(run_id, params=pairs[start : start + _MAX_PARAMS])
        if tags:
            self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    # --- what was forwarded ---------------------------------------------------------------------

    def _read_note(self, stage_dir: Path) -> dict[str, Any]:
        """The stage's note; a new one where it speaks of another store or a deleted run."""
        note = read_json(stage_dir / RUN_FILE, default={})
        if note.get("uri") == without_password(self.uri) and self._is_alive(note["owner"]):
            note["runs"] = {p: r for p, r in note["runs"].items() if self._is_alive(r)}
            return note
        return {
            "uri": without_password(self.uri), "owner": "", "runs": {},
            "position": {"inode": 0, "offset": 0}, "last_step": {}, "finished": None,
        }  # fmt: skip

    def _write_note(self, stage_dir: Path, note: dict[str, Any]) -> None:
        atomic_write_text(stage_dir / RUN_FILE, json.dumps(note, indent=1))

    def _is_alive(self, run_id: str) -> bool:
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
