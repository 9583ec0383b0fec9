"""Checkpoints that are complete or absent: temporary name, fsync, checksum, rename.

Lightning's own callback overwrites in place, so a process killed while saving loses the good
checkpoint along with the new one.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from core.errors import ConfigError
from core.files import atomic_write_text, sha256_file
from core.log import get_logger

_LOG = get_logger("checkpoints")
_STATE = "checkpoint.ckpt"
_SEAL = "complete.json"


class AtomicCheckpoint(Callback):
    """Saves every `every_n_steps` optimizer steps and keeps the last few."""

    def __init__(self, folder: Path, *, every_n_steps: int, keep: int = 2) -> None:
        if every_n_steps < 1 or keep < 1:
            raise ConfigError(f"checkpoint interval {every_n_steps} and keep {keep} must be >= 1")
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._last: Path | None = None

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Save when the interval is full; never in the middle of an optimizer step."""
        del args
        if trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> Path:
        """Write one complete checkpoint; every rank must call it."""
        final = self.folder / f"step={trainer.global_step:08d}"
        if final == self._last:
            return final
        temporary = final.with_name(f".{final.name}.tmp")
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            for stale in self.folder.glob(".step=*.tmp"):
                shutil.rmtree(stale)
            temporary.mkdir()
        trainer.strategy.barrier("checkpoint_folder")
        trainer.save_checkpoint(temporary / _STATE)
        if trainer.is_global_zero:
            _seal(temporary, trainer.global_step)
            if final.exists():  # left by an attempt that was resumed before it: it is damaged
                shutil.rmtree(final)
            temporary.rename(final)
            _fsync_folder(self.folder)
            self._prune(final)
        trainer.strategy.barrier("checkpoint_done")
        self._last = final
        return final

    def _prune(self, newest: Path) -> None:
        """Keep the last few; later steps were left by an attempt whose checkpoints are damaged."""
        saved = sorted(self.folder.glob("step=*"))
        last = saved.index(newest)
        for old in (*saved[last + 1 :], *saved[: max(0, last + 1 - self.keep)]):
            shutil.rmtree(old)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SavedState:
    """A checkpoint that is whole."""

    path: Path
    step: int


def latest_checkpoint(folder: Path) -> SavedState | None:
    """The newest checkpoint whose checksum holds; damaged ones are named and passed over."""
    for candidate in sorted(folder.glob("step=*"), reverse=True):
        reason = _damage(candidate)
        if reason is None:
            step = json.loads((candidate / _SEAL).read_text())["step"]
            return SavedState(path=candidate / _STATE, step=step)
        _LOG.warning("checkpoint %s is damaged (%s); trying the one before", candidate, reason)
    return None


def _seal(folder: Path, step: int) -> None:
    state = folder / _STATE
    with state.open("rb+") as file:
        os.fsync(file.fileno())
    seal = {"step": step, "sha256": sha256_file(state), "num_bytes": state.stat().st_size}
    atomic_write_text(folder / _SEAL, json.dumps(seal))


def _damage(folder: Path) -> str | None:
    state, seal = folder / _STATE, folder / _SEAL
    if not state.is_file() or not seal.is_file():
        return "a file is missing"
    try:
        expected = json.loads(seal.read_bytes())
        _ = expected["step"], expected["num_bytes"], expected["sha256"]
    except (ValueError, KeyError, TypeError):
        return f"{_SEAL} is not one"
    if state.stat().st_size != expected["num_bytes"]:
        return f"{state.stat().st_size} bytes instead of {expected['num_bytes']}"
    return None if sha256_file(state) == expected["sha256"] else "checksum differs"


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
