"""The store of stage runs on disk: one folder per address, finished or continued, never half.

mlruns/store/{kind}/{address}/  stage.json spec.yaml status.json progress.json metrics.jsonl
                                checkpoints/ result/ (appears by a rename when complete)
"""

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.config import dump_config, to_plain
from core.errors import CheckpointError
from core.io.files import atomic_write_text, locked
from core.io.sealed_folder import SEAL_FILE, find_damage, publish_folder, seal_folder
from core.process.log import get_logger
from pipeline.store.retry_policy import MACHINES, Failure, Fault, decide
from pipeline.store.states import State

_LOG = get_logger("store")
KEPT = "kept.jsonl"
"""What an evaluation has found so far, a line for each part; kept until it is done."""


@dataclasses.dataclass(kw_only=True)
class Status:
    """What status.json says of a stage run, over all its attempts."""

    state: State = State.WAITING
    started: float = 0.0
    ended: float = 0.0
    wall_s: float = 0.0
    attempts: int = 0
    error: str = ""
    max_rss_mb: float = 0.0
    node: str = ""
    """Machine of the last attempt."""
    failures: list[Failure] = dataclasses.field(default_factory=list)
    """Every failure, oldest first; interruptions on request are none."""

    def fail(self, failure: Failure) -> None:
        """Note how an attempt failed."""
        self.state, self.error = State.FAILED, failure.error
        self.failures = [*self.failures, failure]


@dataclasses.dataclass(frozen=True)
class StageFolder:
    """The folder of one stage run."""

    path: Path

    @property
    def result(self) -> Path:
        """Where the finished result lies."""
        return self.path / "result"

    @property
    def scratch(self) -> Path:
        """Where a result is put together before the rename."""
        return self.path / "result.tmp"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of a training stage."""
        return self.path / "checkpoints"

    def write_stage(self, description: Mapping[str, object], stage: object) -> None:
        """Write stage.json and spec.yaml of an unfinished stage run; a finished one is left alone.

        They are written again at every start: what is not part of the address (the features that
        are read, the number of workers) may have changed.
        """
        if self.result.is_dir():
            return
        atomic_write_text(self.path / "spec.yaml", dump_config(stage))
        atomic_write_text(self.path / "stage.json", json.dumps(description, indent=1))

    def read_stage(self) -> dict[str, Any]:
        """What `write_stage` wrote."""
        stage: dict[str, Any] = json.loads((self.path / "stage.json").read_text())
        return stage

    def read_status(self) -> Status:
        """The status, or that of a stage that never ran."""
        file = self.path / "status.json"
        if not file.exists():
            return Status()
        raw = json.loads(file.read_text())
        failures = [
            Failure(**{**one, "fault": Fault(one["fault"])}) for one in raw.get("failures", [])
        ]
        return Status(**{**raw, "state": State(raw["state"]), "failures": failures})

    def write_status(self, status: Status) -> None:
        """Replace the status atomically."""
        atomic_write_text(self.path / "status.json", json.dumps(to_plain(status)))

    def safe_step(self) -> int:
        """How much of the work is on disk, -1 without any.

        The optimizer step of the newest checkpoint, by its name; an evaluation's kept parts.
        """
        names = [path.name.removeprefix("step=") for path in self.checkpoints.glob("step=*")]
        steps = [int(name) for name in names if name.isdigit()]
        kept = self.checkpoints / KEPT
        parts = kept.read_bytes().count(b"\n") if kept.is_file() else 0
        return max([*steps, parts or -1])

    def failure(self, fault: Fault, error: str) -> Failure:
        """A failure of the attempt that status.json tells of."""
        return Failure(
            fault=fault, error=error, node=self.read_status().node, step=self.safe_step()
        )

    def settle(self) -> None:
        """Mend the status of a finished stage whose process was killed before it could say so."""
        status = self.read_status()
        if status.state is not State.DONE:
            status.state, status.error = State.DONE, ""
            status.ended = (self.result / SEAL_FILE).stat().st_mtime
            self.write_status(status)

    def seal(self) -> None:
        """Seal the scratch folder and rename it to the result."""
        seal_folder(self.scratch)
        publish_folder(self.scratch, self.result)

    def is_done(self) -> bool:
        """Return whether there is a result, and verify it.

        Raises:
            CheckpointError: If a file of the result is missing or damaged.
        """
        if not self.result.is_dir():
            return False
        if (reason := find_damage(self.result)) is not None:
            raise CheckpointError(
                f"{self.result} is damaged ({reason}); delete it to run the stage again"
            )
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the stage run: a second process waits until the first has saved and gone."""
        with locked(self.path / "lock"):
            yield


class Store:
    """All stage runs under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, address: str) -> StageFolder:
        """The folder of a stage run, whether it exists or not."""
        return StageFolder(self.root / "store" / kind / address)


def may_start(folder: StageFolder, *, retries: int) -> bool:
    """Whether a stage run that failed has waited long enough; any other may."""
    status = folder.read_status()
    if status.state is not State.FAILED or not status.failures:
        return True
    when = decide(status.failures, retries=retries)
    return when is None or time.time() >= when  # None: an earlier command gave up


def begin_anew(folder: StageFolder) -> None:
    """Forget how the last attempt ended, so that the next one's end can be told from it."""
    status = folder.read_status()
    if status.state in (State.FAILED, State.INTERRUPTED):
        status.state = State.WAITING
        folder.write_status(status)


def settle_failure(folder: StageFolder, *, retries: int) -> bool:
    """Whether a stage run that failed is tried again; if not, its last failure is the final one."""
    status = folder.read_status()
    when = decide(status.failures, retries=retries)
    if when is not None:
        wait = when - time.time()
        _LOG.warning(
            "%s failed (%s) and goes on from its last checkpoint%s",
            folder.path, status.error, f" in {wait:.0f} s" if wait > 1 else "",
        )  # fmt: skip
        return True
    *before, last = status.failures or [folder.failure(Fault.OWN, status.error)]
    status.failures = [*before, dataclasses.replace(last, final=True)]
    folder.write_status(status)
    return False


@contextlib.contextmanager
def timed_attempt(folder: StageFolder) -> Iterator[Status]:
    """Count an attempt and its wall time, whatever its end."""
    status = folder.read_status()
    before, status.attempts = status.wall_s, status.attempts + 1
    status.state, status.error = State.RUNNING, ""
    status.node = os.environ.get(MACHINES) or socket.gethostname()
    status.started = status.started or time.time()
    folder.write_status(status)
    begin = time.monotonic()
    try:
        yield status
    finally:
        status.ended, status.wall_s = time.time(), before + time.monotonic() - begin
        folder.write_status(status)
