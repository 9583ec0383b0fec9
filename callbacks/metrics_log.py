"""The training log as plain lines on disk, which the parent process forwards to MLflow.

Why not MLflow's own logger here: every rank would open one SQLite file, a tracking server that is
away would stop a training run, and steps that are trained again after a crash would be logged
twice. A file has one writer, needs no server, and can be cut back to the step that was resumed.

A step is kept as the caller gives it (Lightning: optimizer steps done before this one). The first
line of an attempt says where it begins: it replaces what an earlier attempt logged from there on.
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

from core.io.files import atomic_write_text
from core.io.jsonl import JsonlWriter, format_jsonl, read_jsonl

METRICS_FILE = "metrics.jsonl"
PROGRESS_FILE = "progress.json"

_PROGRESS_INTERVAL_S = 0.2


class JsonlLogger(Logger):
    """Appends one JSON line per log call and keeps the newest values in `progress.json`."""

    def __init__(self, folder: Path, *, total_steps: int = 0) -> None:
        """Nothing is touched before the first metric arrives.

        Args:
            folder: The stage's folder.
            total_steps: Steps the stage will take, for progress displays.
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
        """The stage's kind: the name of the folder above."""
        return self.folder.parent.name

    @property
    @override
    def version(self) -> str:
        """The stage's address: the folder's name."""
        return self.folder.name

    @property
    @override
    def save_dir(self) -> str:
        """Where the stage lives."""
        return str(self.folder)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line and flush it, so that a kill loses nothing that was logged."""
        values = {name: _json_number(value) for name, value in metrics.items()}
        self._step = self._step if step is None else step
        if self._file is None:
            self._file = self._open(self._step, set(values))
        line = {"step": self._step, "time": round(time.time(), 3), "metrics": values}
        self._file.write(line)
        self._latest.update(values)
        if time.monotonic() - self._progress_time >= _PROGRESS_INTERVAL_S:
            self._write_progress()

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Nothing to do: the resolved configuration is in `stage.json`."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the last progress and close the file."""
        if self._file is not None:
            self._write_progress()
            self._file.close()
            self._file = None

    def _open(self, first_step: int, names: set[str]) -> JsonlWriter:
        """Cut the log back to where this attempt begins, then open it for appending."""
        path = self.folder / METRICS_FILE
        self.folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            kept = [line for line in read_jsonl(path) if _is_before(line, first_step, names)]
            atomic_write_text(path, format_jsonl(kept))
        return JsonlWriter(path)

    def _write_progress(self) -> None:
        write_progress(self.folder, step=self._step, total=self.total_steps, metrics=self._latest)
        self._progress_time = time.monotonic()


def write_progress(
    folder: Path, *, step: int, total: int, metrics: Mapping[str, float | str]
) -> None:
    """Replace a stage's `progress.json`, which displays read at any time."""
    progress = {"step": step, "total": total, "metrics": dict(metrics)}
    temporary = folder / f".{PROGRESS_FILE}.tmp"
    # No fsync as in core.io.files: five a second would cost more than a lost progress bar.
    temporary.write_text(json.dumps(progress, allow_nan=False), encoding="utf-8")
    temporary.replace(folder / PROGRESS_FILE)


def _is_before(line: dict[str, Any], first_step: int, names: set[str]) -> bool:
    """Whether a line of an earlier attempt stays: all steps from the first one are taken again."""
    if line["step"] == first_step:
        return not names & line["metrics"].keys()
    return bool(line["step"] < first_step)


def _json_number(value: float) -> float | str:
    """JSON has no NaN or infinity; `float()` reads these words back."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
