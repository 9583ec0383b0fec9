"""Training metrics in a JSON Lines file, which the parent process forwards to MLflow.

MLflow's own logger does not fit: every rank would open one SQLite file, an unreachable tracking
server would stop a training run, and steps repeated after a crash would be logged twice. A file has
one writer, needs no server, and can be truncated to the step of a resumed run. A file that can't be
written, as on a full disk, is a warning: no result depends on it.

Steps are logged as the caller numbers them (Lightning: optimizer steps done before this one). The
first step of an attempt replaces everything that earlier attempts logged from there on.
"""

import json
import math
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from core.io.files import atomic_write_text, warning_if_unwritten
from core.io.jsonl import JsonlWriter, format_jsonl, read_jsonl

METRICS_FILE = "metrics.jsonl"
PROGRESS_FILE = "progress.json"

_PROGRESS_INTERVAL_S = 0.2


class JsonlLogger(Logger):
    """Logger that appends JSON lines and writes the newest values to `progress.json`."""

    def __init__(self, folder: Path, *, total_steps: int = 0) -> None:
        """Configure the logger; files are opened at the first metric.

        Args:
            folder: Folder of the stage.
            total_steps: Total number of steps, for progress displays.
        """
        super().__init__()
        self.folder = folder
        self.total_steps = total_steps
        self._file: JsonlWriter | None = None
        self._latest: dict[str, float | str] = {}
        self._step = 0
        self._progress_time = -math.inf

    @property
    @override
    def name(self) -> str:
        """Kind of the stage: the name of the parent folder."""
        return self.folder.parent.name

    @property
    @override
    def version(self) -> str:
        """Address of the stage: the name of the folder."""
        return self.folder.name

    @property
    @override
    def save_dir(self) -> str:
        """Folder of the stage."""
        return str(self.folder)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line; it survives a kill of the process."""
        values = {name: _json_number(value) for name, value in metrics.items()}
        self._step = self._step if step is None else step
        line = {"step": self._step, "time": round(time.time(), 3), "metrics": values}
        with warning_if_unwritten(self.folder / METRICS_FILE):
            if self._file is None:
                self._file = self._open(self._step, set(values))
            self._file.write(line)
        self._latest.update(values)
        if time.monotonic() - self._progress_time >= _PROGRESS_INTERVAL_S:
            self._write_progress()

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Do nothing: the resolved configuration is in `stage.json`."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the final progress and close the file."""
        if self._file is not None:
            self._write_progress()
            with warning_if_unwritten(self.folder / METRICS_FILE):
                self._file.close()
            self._file = None

    def _open(self, first_step: int, names: set[str]) -> JsonlWriter:
        """Remove the lines that this attempt replaces, then open the file for appending."""
        path = self.folder / METRICS_FILE
        self.folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            kept = [line for line in read_jsonl(path) if _is_kept(line, first_step, names)]
            atomic_write_text(path, format_jsonl(kept))
        return JsonlWriter(path)

    def _write_progress(self) -> None:
        write_progress(self.folder, step=self._step, total=self.total_steps, metrics=self._latest)
        self._progress_time = time.monotonic()


def write_progress(
    folder: Path, *, step: int, total: int, metrics: Mapping[str, float | str]
) -> None:
    """Replace a stage's `progress.json`, which displays may read at any time."""
    progress = {"step": step, "total": total, "metrics": dict(metrics)}
    temporary = folder / f".{PROGRESS_FILE}.tmp"
    # No fsync, unlike core.io.files: five per second would cost more than a lost progress bar.
    with warning_if_unwritten(folder / PROGRESS_FILE):
        temporary.write_text(json.dumps(progress, allow_nan=False), encoding="utf-8")
        temporary.replace(folder / PROGRESS_FILE)


def _is_kept(line: dict[str, Any], first_step: int, names: set[str]) -> bool:
    """Return whether to keep a line of an earlier attempt: this one repeats later steps."""
    if line["step"] == first_step:
        return not names & line["metrics"].keys()
    return bool(line["step"] < first_step)


def _json_number(value: float) -> float | str:
    """Convert a value for JSON, which lacks NaN and infinity; `float()` parses the result."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
