"""Atomic checkpoints, written in the background.

Lightning's own callback overwrites in place, so a process that is killed while saving loses the
previous checkpoint along with the new one. Large states are written by a thread during training.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException

from callbacks.checkpoint_files import (
    STATE_NAME,
    SavedState,
    checkpoint_folder,
    latest_checkpoint,
)
from callbacks.checkpoint_interval import Cadence
from core.errors import CheckpointError, ConfigError, UnsavedError
from core.io.sealed_folder import publish_folder, seal_folder
from core.process.distributed import any_rank
from core.process.log import get_logger
from core.snapshots import copy_to_cpu, count_bytes
from lightning_modules.strategy import ShardedStrategy

__all__ = ["SMALL_BYTES", "AtomicCheckpoint", "SavedState", "latest_checkpoint"]

_LOG = get_logger("checkpoints")
SMALL_BYTES = 64 << 20
"""Smaller states are written synchronously, which takes less time than a step of a large model."""
_STORAGE_ERRORS = (OSError, RuntimeError, CheckpointException)
"""Errors to retry (torch raises RuntimeError if the disk is full); other errors are bugs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionRule:
    """Rule for the checkpoints to keep."""

    last: int = 2
    """Number of the newest checkpoints to keep."""
    every_n_steps: int = 0
    """Also keep the checkpoints at multiples of this many steps; 0 means none."""
    steps: frozenset[int] = frozenset()
    """Steps whose checkpoints are always written and kept."""

    def outdated(self, saved: list[Path], newest: Path) -> list[Path]:
        """Return the checkpoints to delete once `newest` is complete.

        Checkpoints of later steps are damaged leftovers of an earlier attempt.
        """
        index = saved.index(newest)
        old = saved[: max(0, index + 1 - self.last)]
        old = [p for p in old if _step_of(p) not in self.steps]
        if self.every_n_steps:
            old = [p for p in old if _step_of(p) % self.every_n_steps]
        return [*saved[index + 1 :], *old]


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step="))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PendingSave:
    """Save that is being written."""

    step: int
    temporary: Path
    future: "Future[None] | None"
    """None on ranks without anything to write."""


class AtomicCheckpoint(Callback):
    """Callback that saves checkpoints; a failed save does not affect earlier ones.

    At most one save is pending. Its failure is detected at the next one, on all ranks;
    `max_failures` consecutive failures abort the run.
    """

    def __init__(  # noqa: PLR0913 - settings of independent aspects
        self,
        folder: Path,
        *,
        cadence: Cadence,
        keep: int = 2,
        keep_every_n_steps: int = 0,
        keep_steps: Collection[int] = (),
        background_above_bytes: float = SMALL_BYTES,
        max_failures: int = 3,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"the number of checkpoints to keep must be at least 1, got {keep}")
        self.folder = folder
        self.cadence = cadence
        self.rule = RetentionRule(
            last=keep, every_n_steps=keep_every_n_steps, steps=frozenset(keep_steps)
        )
        self.background_above_bytes = background_above_bytes
        self.max_failures = max_failures
        self.last_step: int | None = None
        """Step of the newest checkpoint that this attempt completed."""
        self._failures = 0
        self._pending: _PendingSave | None = None
        self._state_capture = _StateCapture()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def setup(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        """Make Lightning hand over the state instead of writing it."""
        del args, kwargs
        if not isinstance(trainer.strategy, ShardedStrategy):
            trainer.strategy.checkpoint_io = self._state_capture

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Start the cadence."""
        del args
        self.cadence.start(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Save if a checkpoint is due; a batch is a whole optimizer step."""
        del args
        is_due = self.cadence.is_due(trainer)  # it measures the step
        if is_due or trainer.global_step in self.rule.steps:
            begin = time.monotonic()
            self.save(trainer)
            self.cadence.saved(trainer, time.monotonic() - begin)

    def on_train_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Wait for the last save."""
        del args
        self._settle(trainer)

    def save(self, trainer: lightning.Trainer, *, wait: bool = False) -> bool:
        """Save the state of this step; every rank must call this.

        Args:
            trainer: Trainer whose state is saved.
            wait: Wait until the checkpoint is complete or has failed.

        Returns:
            Whether the newest completed save succeeded.

        Raises:
            UnsavedError: If too many consecutive saves failed.
        """
        is_good = self._settle(trainer)
        step = trainer.global_step
        if step == self.last_step:
            return True
        final = checkpoint_folder(self.folder, step)
        temporary = final.with_name(f".{final.name}.tmp")
        fault = self._prepare_folder(temporary) if trainer.is_global_zero else ""
        if fault := trainer.strategy.broadcast(fault):
            return self._failed(step, temporary, fault, is_writer=trainer.is_global_zero)
        trainer.save_checkpoint(temporary / STATE_NAME)  # only captures the state
        write, num_bytes = self._take_state(trainer)
        self._pending = self._start(trainer, write, final, temporary)
        large = any_rank(flag=num_bytes > self.background_above_bytes, device=_device(trainer))
        return self._settle(trainer) if wait or not large else is_good

    def _take_state(self, trainer: lightning.Trainer) -> tuple[Callable[[], None] | None, int]:
        """Return a function that writes this rank's part (None if it has none), and its bytes."""
        if isinstance(trainer.strategy, ShardedStrategy):
            return trainer.strategy.take()
        return self._state_capture.take()

    def _start(
        self,
        trainer: lightning.Trainer,
        write: Callable[[], None] | None,
        final: Path,
        temporary: Path,
    ) -> _PendingSave:
        step = trainer.global_step
        future: Future[None] | None = None
        if trainer.is_global_zero and write is not None:
            future = self._writer.submit(self._write, write, final, temporary, step)
        elif write is not None:
            future = self._writer.submit(write)
        return _PendingSave(step=step, temporary=temporary, future=future)

    def _write(self, write: Callable[[], None], final: Path, temporary: Path, step: int) -> None:
        """Write, seal and rename the checkpoint; only then delete outdated ones."""
        write()
        seal_folder(temporary, step=step)
        if final.exists():  # damaged: an attempt was resumed before it
            shutil.rmtree(final)
        publish_folder(temporary, final)
        for old in self.rule.outdated(sorted(self.folder.glob("step=*")), final):
            shutil.rmtree(old, ignore_errors=True)  # not fatal: the new one is complete

    def _prepare_folder(self, temporary: Path) -> str:
        """Create the folder of a save; return a description of the error, if any."""
        try:
            # A missing folder after the first save is lost storage: creating it again would fill
            # the disk below the mount point.
            if self.last_step is None:
                self.folder.mkdir(parents=True, exist_ok=True)
            for stale in self.folder.glob(".step=*.tmp"):
                shutil.rmtree(stale)
            temporary.mkdir()
        except OSError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _settle(self, trainer: lightning.Trainer) -> bool:
        """Wait for the pending save and return, on all ranks, whether it succeeded."""
        pending, self._pending = self._pending, None
        if pending is None:
            return True
        error = None if pending.future is None else pending.future.exception()
        fault = "" if error is None else f"{type(error).__name__}: {error}".strip()
        if any_rank(
            flag=error is not None and not isinstance(error, _STORAGE_ERRORS),
            device=_device(trainer),
        ):  # raise on every rank: the others would wait for a rank that exits alone
            raise CheckpointError(
                f"the checkpoint of step {pending.step} failed ({fault or 'on another rank'})"
            ) from error
        if any_rank(flag=bool(fault), device=_device(trainer)):
            return self._failed(
                pending.step, pending.temporary, fault, is_writer=trainer.is_global_zero
            )
        self.last_step, self._failures = pending.step, 0
        return True

    def _failed(self, step: int, temporary: Path, fault: str, *, is_writer: bool) -> bool:
        """Log and count a failed save and remove its files."""
        self._failures += 1
        if is_writer:
            shutil.rmtree(temporary, ignore_errors=True)
            newest = "none" if self.last_step is None else f"that of step {self.last_step}"
            _LOG.error(
                "the checkpoint of step %d could not be written to %s (%s); the newest one of this "
                "attempt is %s. Consecutive failure %d of %d",
                *(step, self.folder, fault or "on another rank", newest),
                *(self._failures, self.max_failures),
            )
        if self._failures >= self.max_failures:
            raise UnsavedError(
                f"{self._failures} consecutive checkpoints could not be written to {self.folder} "
                f"({fault or 'see rank 0'}); free space or repair the storage and rerun the "
                "command: it resumes from the newest intact checkpoint"
            )
        return False


class _StateCapture(TorchCheckpointIO):
    """Checkpoint IO that copies the state instead of writing it."""

    def __init__(self) -> None:
        super().__init__()
        self._state: tuple[Mapping[str, Any], Path] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Copy the state, because the next step changes the parameters."""
        del storage_options
        self._state = (copy_to_cpu(checkpoint), Path(path))

    def take(self) -> tuple[Callable[[], None] | None, int]:
        """Return a function that writes the copied state, and its size; then forget it."""
        if self._state is None:
            return None, 0
        (state, path), self._state = self._state, None
        return lambda: torch.save(state, path), count_bytes(state)


def _device(trainer: lightning.Trainer) -> torch.device:
    return trainer.strategy.root_device
