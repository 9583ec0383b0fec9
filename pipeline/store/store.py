"""The store of stage runs on disk: one folder per address, resumed until it is complete.

ROOT/store/KIND/ADDRESS/  stage.json spec.yaml status.json progress.json metrics.jsonl checkpoints/
                          result/ (appears with a rename when it is complete)
"""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.config import dump_config, to_plain
from core.errors import CheckpointError
from core.io.files import atomic_write_text, locked, warning_if_unwritten
from core.io.sealed_folder import SEAL_FILE, find_damage, publish_folder, seal_folder
from core.process.log import get_logger
from pipeline.store.inventory import CHECKPOINTS, LEFT_OUT, RESULT, SCRATCH
from pipeline.store.locks import STAGE_LOCK, STORE_FOLDER
from pipeline.store.registration import Registration
from pipeline.store.retry_policy import NODES_VARIABLE, Failure, Fault, next_attempt_time
from pipeline.store.states import State

_LOG = get_logger("store")
PARTIAL_RESULTS = "partial_results.jsonl"
"""File of the results of an unfinished evaluation, in the checkpoint folder; one line per part."""


@dataclasses.dataclass(kw_only=True)
class Status:
    """Content of status.json: the state of a stage run and the totals of all its attempts."""

    state: State = State.WAITING
    started: float = 0.0
    ended: float = 0.0
    wall_s: float = 0.0
    attempts: int = 0
    error: str = ""
    max_rss_mb: float = 0.0
    node: str = ""
    """Nodes of the last attempt, separated by commas."""
    failures: list[Failure] = dataclasses.field(default_factory=list)
    """All failures, oldest first; requested interruptions are not failures."""

    def fail(self, failure: Failure) -> None:
        """Record the failure of an attempt."""
        self.state, self.error = State.FAILED, failure.error
        self.failures = [*self.failures, failure]


@dataclasses.dataclass(frozen=True)
class StageFolder:
    """The folder of one stage run."""

    path: Path

    @property
    def result(self) -> Path:
        """Folder of the complete result."""
        return self.path / RESULT

    @property
    def scratch(self) -> Path:
        """Folder in which the result is written before it is complete."""
        return self.path / SCRATCH

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints and partial results; deleted when the stage is done."""
        return self.path / CHECKPOINTS

    @property
    def left_out(self) -> Path:
        """File that lists what an imported result lacks (`pipeline.store.bundle`), such as weights.

        Such a result can be reported and compared. It does not count as done, so that a grid
        computes it again where it needs the rest.
        """
        return self.path / LEFT_OUT

    def write_stage(
        self,
        description: Mapping[str, object],
        stage: object,
        registration: Registration | None = None,
    ) -> None:
        """Write stage.json and spec.yaml of an unfinished stage run.

        They are rewritten at every start, because settings that are not part of the address (the
        cached features, the number of workers) may have changed. The registrations under which
        the stage run was started before are kept.
        """
        if self.result.is_dir() and not self.left_out.is_file():
            return
        stamps = self._read_stamps()
        if registration is not None and (stamp := registration.to_json()) not in stamps:
            stamps.append(stamp)
        described = {**description, "registrations": stamps}
        atomic_write_text(self.path / "spec.yaml", dump_config(stage))
        atomic_write_text(self.path / "stage.json", json.dumps(described, indent=1))

    def _read_stamps(self) -> list[dict[str, str]]:
        path = self.path / "stage.json"
        if not path.is_file():
            return []
        try:
            stamps: list[dict[str, str]] = self.read_stage().get("registrations", [])
        except (ValueError, AttributeError) as error:
            _LOG.warning("%s is damaged (%s) and will be rewritten", path, error)
            return []
        return stamps

    def read_stage(self) -> dict[str, Any]:
        """Read the description that `write_stage` has written."""
        stage: dict[str, Any] = json.loads((self.path / "stage.json").read_text())
        return stage

    def read_status(self) -> Status:
        """Read the status; without an intact file, return that of a stage that never ran."""
        file = self.path / "status.json"
        if not file.exists():
            return Status()
        try:
            raw = json.loads(file.read_text())
            failures = [
                Failure(**{**one, "fault": Fault(one["fault"])}) for one in raw.get("failures", [])
            ]
            return Status(**{**raw, "state": State(raw["state"]), "failures": failures})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # The result and the checkpoints have checksums of their own, so nothing else is lost.
            _LOG.warning("%s is damaged (%s); its counts restart from zero", file, error)
            return Status()

    def write_status(self, status: Status) -> None:
        """Replace the status atomically; a full disk is a warning, as no result depends on it."""
        path = self.path / "status.json"
        with warning_if_unwritten(path):
            atomic_write_text(path, json.dumps(to_plain(status)))

    def safe_step(self) -> int:
        """Return the saved progress: the step of the newest checkpoint or the number of parts.

        Returns:
            Optimizer steps of a training, finished parts of an evaluation, or -1 if nothing is
            saved.
        """
        names = [path.name.removeprefix("step=") for path in self.checkpoints.glob("step=*")]
        steps = [int(name) for name in names if name.isdigit()]
        partial = self.checkpoints / PARTIAL_RESULTS
        num_parts = partial.read_bytes().count(b"\n") if partial.is_file() else 0
        return max([*steps, num_parts or -1])

    def failure(self, fault: Fault, error: str) -> Failure:
        """Return a failure of the current attempt."""
        return Failure(
            fault=fault, error=error, node=self.read_status().node, step=self.safe_step()
        )

    def settle(self) -> None:
        """Complete the status of a finished stage whose process was killed before it wrote it."""
        status = self.read_status()
        if status.state is not State.DONE:
            status.state, status.error = State.DONE, ""
            status.ended = (self.result / SEAL_FILE).stat().st_mtime
            self.write_status(status)

    def seal(self) -> None:
        """Seal the scratch folder and rename it to the result."""
        seal_folder(self.scratch)
        if self.left_out.is_file():
            shutil.rmtree(self.result, ignore_errors=True)
        publish_folder(self.scratch, self.result)
        self.left_out.unlink(missing_ok=True)

    def is_done(self) -> bool:
        """Return whether there is a result, and verify it.

        Raises:
            CheckpointError: If a file of the result is missing or damaged.
        """
        if not self.result.is_dir():
            return False
        if (reason := find_damage(self.result)) is not None:
            if self.left_out.is_file():
                return False
            raise CheckpointError(
                f"{self.result} is damaged ({reason}); delete it to rerun the stage"
            )
        return True

    @contextlib.contextmanager
    def locked(self, *, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Lock the stage run: a second process waits until the first has saved and exited.

        Raises:
            PreemptedError: If `is_stopped` returned True while waiting.
        """
        with locked(self.path / STAGE_LOCK, is_stopped=is_stopped):
            yield


class Store:
    """The stage runs in one output folder."""

    def __init__(self, root: Path, *, registration: Registration | None = None) -> None:
        """Open a store.

        Args:
            root: Output folder of all runs.
            registration: Registration that stage runs of this command record.
        """
        self.root = root
        self.registration = registration

    def folder(self, kind: str, address: str) -> StageFolder:
        """Return the folder of a stage run, which may not exist yet."""
        return StageFolder(self.root / STORE_FOLDER / kind / address)


def can_start(folder: StageFolder, *, retries: int) -> bool:
    """Return whether a stage run may start now; after some failures it has to wait."""
    status = folder.read_status()
    if status.state is not State.FAILED or not status.failures:
        return True
    start = next_attempt_time(status.failures, retries=retries)
    return start is None or time.time() >= start  # None: abandoned, and retried by a new command


def reset_attempt(folder: StageFolder) -> None:
    """Clear the outcome of the last attempt, so that it isn't mistaken for that of the next one."""
    status = folder.read_status()
    if status.state in (State.FAILED, State.INTERRUPTED):
        status.state = State.WAITING
        folder.write_status(status)


def should_retry(folder: StageFolder, *, retries: int) -> bool:
    """Return whether a failed stage run is retried; if not, mark its last failure as final."""
    status = folder.read_status()
    start = next_attempt_time(status.failures, retries=retries)
    if start is not None:
        wait_s = start - time.time()
        delay = f" in {wait_s:.0f} s" if wait_s > 1 else ""
        _LOG.warning(
            "%s failed (%s); it resumes from its last checkpoint%s",
            folder.path,
            status.error,
            delay,
        )
        return True
    *before, last = status.failures or [folder.failure(Fault.OWN, status.error)]
    status.failures = [*before, dataclasses.replace(last, final=True)]
    folder.write_status(status)
    return False


@contextlib.contextmanager
def timed_attempt(folder: StageFolder) -> Iterator[Status]:
    """Count an attempt and add its wall time to the status, however it ends."""
    status = folder.read_status()
    wall_s_before, status.attempts = status.wall_s, status.attempts + 1
    status.state, status.error = State.RUNNING, ""
    status.node = os.environ.get(NODES_VARIABLE) or socket.gethostname()
    status.started = status.started or time.time()
    folder.write_status(status)
    begin = time.monotonic()
    try:
        yield status
    finally:
        status.ended, status.wall_s = time.time(), wall_s_before + time.monotonic() - begin
        folder.write_status(status)
