"""Uploads the store on disk to MLflow: one parent run per grid, one child run per stage run.

The store is authoritative and MLflow is a view of it, written by one process (the one that runs the
grid): SQLite supports one writer, and an unreachable tracking server delays the view but never
stops a training. A note beside each stage run records the upload (`upload_notes`). A point that is
sent twice because a response was lost is stored once, as its timestamp comes from the log.
"""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from core.errors import ConfigError
from core.io.files import locked
from core.process.log import get_logger, without_password
from pipeline.store.records import StageRecord, load_stage
from pipeline.store.states import State
from reporting.records import GridRecord, load_grid
from reporting.tracking import payload
from reporting.tracking.client import (
    TRACKING_ERRORS,
    Metric,
    MlflowClient,
    MlflowException,
    log_batch,
    short_reason,
)
from reporting.tracking.local_store import (
    artifact_location,
    default_store,
    has_database,
    relocate_artifacts,
)
from reporting.tracking.registration import (
    find_parent_run,
    grid_identity,
    has_registration,
    registration_params,
    tracked_identity,
)
from reporting.tracking.upload_notes import UploadNotes

_STATUS = {State.DONE: "FINISHED", State.FAILED: "FAILED", State.INTERRUPTED: "KILLED"}
_PAUSE_S = 30.0
"""Pause after a failed request, because every further attempt would wait for the timeout."""

_LOCK_TIMEOUT_S = 60.0
"""Longest wait for another command that uploads; the upload is then completed later."""
_OUTAGES: dict[str, str] = {}
"""Reason of the present outage of each store, so that it is reported once."""
_LOG = get_logger("tracking")
P = ParamSpec("P")


def _warn_on_outage(
    method: Callable[Concatenate["GridTracker", P], None],
) -> Callable[Concatenate["GridTracker", P], None]:
    """Turn a failure of the tracking server into a warning; the next call catches up.

    Only one process per root uploads at a time, because two would create every run twice.
    """

    @wraps(method)
    def guarded(self: "GridTracker", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if time.monotonic() < self.silent_until and method.__name__ != "finish":
            self.is_behind = True
            return
        try:
            with locked(self.root / ".mlflow.lock", timeout_s=_LOCK_TIMEOUT_S):
                method(self, *args, **kwargs)
        except TRACKING_ERRORS as error:
            reason = short_reason(error)
            if _is_new_outage(self.uri, reason):
                _LOG.warning("MLflow: %s failed and will be retried: %s", method.__name__, reason)
            self.is_behind = True
            self.silent_until = time.monotonic() + _PAUSE_S
        else:
            _OUTAGES.pop(self.uri, None)

    return guarded


def _is_new_outage(uri: str, reason: str) -> bool:
    """Return whether this process has not reported the outage yet; all its trackers share it."""
    is_new = _OUTAGES.get(uri) != reason
    _OUTAGES[uri] = reason
    return is_new


class GridTracker:
    """Uploads the runs of one grid; all methods are idempotent."""

    def __init__(self, root: Path, experiment: str, profile: str, name: str = "") -> None:
        """Connect to MLflow, and create the database and the experiment if they do not exist.

        An unreachable server is a warning; the upload is completed later.

        Raises:
            ConfigError: If the address is invalid, or the local database can't be opened.
        """
        self.root = root
        self.experiment = experiment
        self.profile = profile
        self.name = name
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or default_store(root)
        self.parent_id = ""
        self.is_behind = False
        """Whether the upload is incomplete; `python -m experiments.sync` completes it."""
        self.silent_until = 0.0
        """Monotonic time before which the server is not contacted again after a failure."""
        root.mkdir(parents=True, exist_ok=True)
        try:
            with locked(root / ".mlflow.lock", timeout_s=_LOCK_TIMEOUT_S):
                if self._is_local:
                    relocate_artifacts(root)
                _ = self._experiment_id
        except TRACKING_ERRORS as error:
            self._report_unusable(error)

    def _report_unusable(self, error: Exception) -> None:
        """Warn about a server or database that can't be used now; an invalid address is an error.

        Raises:
            ConfigError: If the address is that of neither.
        """
        reason, shown = short_reason(error), without_password(self.uri)
        is_server = self.uri.startswith(("http://", "https://"))
        if not is_server and not self._is_local:
            raise ConfigError(
                f"MLflow store {shown} can't be opened: {reason}; start the server, or unset "
                "MLFLOW_TRACKING_URI to use the local database"
            ) from error
        state = "is unreachable" if is_server else "can't be used"
        fix = "" if is_server else "; if it is damaged, move it away and run experiments.sync"
        if _is_new_outage(self.uri, reason):
            _LOG.warning("MLflow store %s %s (%s); results are kept under %s and uploaded later%s",
                         shown, state, reason, self.root, fix)  # fmt: skip
        self.is_behind = True
        self.silent_until = time.monotonic() + _PAUSE_S

    @_warn_on_outage
    def ensure_parent_run(self) -> None:
        """Find or create the parent run of the grid that `grid.json` describes."""
        self._ensure_parent()

    @_warn_on_outage
    def ensure_stage_run(self, stage_dir: Path) -> None:
        """Create or continue the child run of a stage, or copy it lightly from another grid."""
        stage, note = load_stage(stage_dir), self._ensure_note(stage_dir)
        if stage.state is State.DONE:
            self._finish_stage(stage, note)
        else:
            self._client.update_run(note["owner"], status="RUNNING")

    @_warn_on_outage
    def sync(self, stage_dir: Path) -> None:
        """Upload the lines that were added to the log of a stage since the last call."""
        self._upload_log(stage_dir, self._ensure_note(stage_dir))

    @_warn_on_outage
    def finish_stage(self, stage_dir: Path) -> None:
        """Upload the remaining log, the final metrics, the artifacts and the final status."""
        self._finish_stage(load_stage(stage_dir), self._ensure_note(stage_dir))

    @_warn_on_outage
    def finish(self, summary: Sequence[Path] = (), *, state: State = State.DONE) -> None:
        """Close the parent run with its curves as metrics and the summary files as artifacts."""
        self._ensure_parent()
        self._log_curve(self._load_grid())
        for path in summary:
            if path.is_dir():
                self._client.log_artifacts(self.parent_id, str(path), "report")
            else:
                self._client.log_artifact(self.parent_id, str(path), "report")
        self._client.set_terminated(self.parent_id, status=_STATUS.get(state, "FAILED"))

    # --- the grid -------------------------------------------------------------------------------

    def _load_grid(self) -> GridRecord:
        return load_grid(self.root, self.experiment, self.profile, self.name)

    @property
    def _is_local(self) -> bool:
        return self.uri == default_store(self.root)

    @cached_property
    def _client(self) -> MlflowClient:
        if self._is_local:
            has_database(self.root)  # raises where MLflow would wait
        return MlflowClient(tracking_uri=self.uri)

    @cached_property
    def _notes(self) -> UploadNotes:
        identity = tracked_identity(self.root, self.uri)
        # The local database moves with its folder.
        return UploadNotes(self._client, identity if self._is_local else self.uri, identity)

    @cached_property
    def _experiment_id(self) -> str:
        return self._ensure_experiment(f"{self.experiment}-{self.profile}")

    def _ensure_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            folder = artifact_location(self.root, name) if self._is_local else None
            tags = {"mlflow.experimentKind": "custom_model_development"}  # instead of GenAI
            try:
                made = self._client.create_experiment(name, artifact_location=folder, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._ensure_experiment(name)  # created by another writer meanwhile
            return str(made)
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _ensure_parent(self) -> str:
        """Return the id of the parent run, which a grid continues when it is started again."""
        if self.parent_id:
            return self.parent_id
        grid = self._load_grid()
        tags = grid_identity(self.root, grid.name, self.uri)
        run = find_parent_run(self._client, [self._experiment_id], tags)
        if run is not None:
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = self._client.create_run(
                self._experiment_id, run_name=f"{grid.name} (grid)", tags=tags
            )
        self.parent_id = str(run.info.run_id)
        if grid.registration is not None and not has_registration(run.data.params):
            params = registration_params(grid.registration)
            log_batch(self._client, self.parent_id, params=params)
        # MLflow never changes a parameter: a grid that continues keeps the values of its start.
        changed = payload.changed_params(grid)
        missing = {name: changed[name] for name in changed.keys() - run.data.params.keys()}
        log_batch(self._client, self.parent_id, params=missing)
        log_batch(self._client, self.parent_id, tags=payload.grid_tags(grid))
        self._client.log_text(self.parent_id, payload.to_json(grid.versions), "versions.json")
        self._client.log_artifact(self.parent_id, str(grid.folder / "grid.json"))
        return self.parent_id

    def _log_curve(self, grid: GridRecord) -> None:
        """Log accuracy over share as metrics of the parent run, so that MLflow plots the curves."""
        new = []
        for name, points in payload.curves(grid).items():
            history = self._client.get_metric_history(self.parent_id, name)
            known = {point.step: point.value for point in history}
            now = int(1000 * max((c.evaluation.ended or 0.0) for c in grid.cells if c.evaluation))
            new += [Metric(name, y, now, x) for x, y in points.items() if known.get(x) != y]
        log_batch(self._client, self.parent_id, metrics=new)

    # --- one stage ------------------------------------------------------------------------------

    def _create_child(self, stage: StageRecord, *, tags: dict[str, str]) -> str:
        grid = self._load_grid()
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
        params = payload.changed_params(grid) | payload.stage_params(stage, cells)
        log_batch(self._client, run.info.run_id, params=params)
        return str(run.info.run_id)

    def _find_child(self, stage: StageRecord, tags: dict[str, str]) -> str:
        """Return the id of a child run whose creator was killed before it wrote its note, or ""."""
        parent = f"tags.`mlflow.parentRunId` = '{tags['mlflow.parentRunId']}'"
        where = f"{parent} and tags.address = '{stage.address}' and tags.kind = '{stage.kind}'"
        found = self._client.search_runs([self._experiment_id], filter_string=where, max_results=1)
        return str(found[0].info.run_id) if found else ""

    def _ensure_note(self, stage_dir: Path) -> dict[str, Any]:
        """Return the note of a stage and create its run if there is none.

        A run whose grid was deleted in MLflow becomes a child of this grid.
        """
        note, parent = self._notes.read(stage_dir), self._ensure_parent()
        owner, runs = note["owner"], note["runs"]
        if not owner:
            owner = self._create_child(load_stage(stage_dir), tags={})
        elif parent in runs or any(
            self._notes.is_active(grid) for grid, run in runs.items() if run == owner
        ):
            return note
        else:
            self._client.set_tag(owner, "mlflow.parentRunId", parent)
        note["owner"] = runs[parent] = owner
        self._notes.write(stage_dir, note)
        return note

    def _finish_stage(self, stage: StageRecord, note: dict[str, Any]) -> None:
        self._upload_log(stage.folder, note)
        if stage.state is State.DONE and note["finished"] != stage.ended:
            self._log_result(note["owner"], stage, has_artifacts=True)
            note["finished"] = stage.ended
            self._notes.write(stage.folder, note)
        if stage.state in _STATUS:
            self._terminate(note["owner"], stage)
        if stage.state is State.DONE and self._ensure_parent() not in note["runs"]:
            copy_id = self._create_child(stage, tags={"reused_from": note["owner"]})
            self._log_result(copy_id, stage, has_artifacts=False)
            self._terminate(copy_id, stage)
            note["runs"][self.parent_id] = copy_id
            self._notes.write(stage.folder, note)

    def _upload_log(self, stage_dir: Path, note: dict[str, Any]) -> None:
        path = stage_dir / "metrics.jsonl"
        if not path.is_file():
            return
        lines, position = payload.new_lines(path, note["position"])
        metrics = []
        for line in lines:
            for name, value in line["metrics"].items():
                # A resumed stage logs some steps again, and MLflow would keep both points.
                if line["step"] > note["last_step"].get(name, -1):
                    note["last_step"][name] = line["step"]
                    key, when = payload.valid_name(name), int(1000 * line["time"])
                    metrics.append(Metric(key, float(value), when, line["step"]))
        log_batch(self._client, note["owner"], metrics=metrics)
        if position != note["position"]:
            note["position"] = position
            self._notes.write(stage_dir, note)

    def _log_result(self, run_id: str, stage: StageRecord, *, has_artifacts: bool) -> None:
        ended = int(1000 * (stage.ended or 0.0))
        grid = self._load_grid()
        values = payload.final_metrics(stage, grid.target_language)
        log_batch(self._client, run_id, metrics=[Metric(k, v, ended, 0) for k, v in values.items()])
        if inputs := payload.dataset_inputs(stage):
            self._client.log_inputs(run_id, datasets=inputs)
        if not has_artifacts:
            return
        for name, text in payload.stage_texts(grid, stage).items():
            self._client.log_text(run_id, text, name)
        for path, folder in payload.stage_files(stage):
            self._client.log_artifact(run_id, str(path), folder)
        if stage.predictions.is_file():
            table, name = payload.items_table(stage.predictions)
            with warnings.catch_warnings():  # MLflow itself uses a deprecated pandas API
                warnings.simplefilter("ignore", DeprecationWarning)
                self._client.log_table(run_id, data=table, artifact_file=name)

    def _terminate(self, run_id: str, stage: StageRecord) -> None:
        ended = int(1000 * stage.ended) if stage.ended else None
        if stage.error:
            self._client.set_tag(run_id, "error", stage.error[:1000])
        self._client.set_terminated(run_id, status=_STATUS[stage.state], end_time=ended)
