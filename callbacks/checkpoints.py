"""Checkpoints that are complete or absent: temporary name, fsync, checksums, rename.

Lightning's own callback overwrites in place, so a process killed while saving loses the good
checkpoint along with the new one. Large states are written by a thread while training goes on.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException

from callbacks.checkpoint_files import STATE_NAME, SavedState, latest_checkpoint
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
"""A state up to this size is written at once: it takes less time than a step of a large model."""
_STORAGE_FAULTS = (OSError, RuntimeError, CheckpointException)
"""Worth another try (torch words a full disk as a RuntimeError); other errors are bugs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeepRule:
    """Which checkpoints stay."""

    last: int = 2
    """So many of the newest."""
    every_n_steps: int = 0
    """Also those of every so many steps; 0 = none."""

    def outdated(self, saved: list[Path], newest: Path) -> list[Path]:
        """The checkpoints to delete once `newest` is complete.

        Later steps were left by an attempt whose checkpoints are damaged.
        """
        place = saved.index(newest)
        old = saved[: max(0, place + 1 - self.last)]
        if self.every_n_steps:
            old = [p for p in old if int(p.name.removeprefix("step=")) % self.every_n_steps]
        return [*saved[place + 1 :], *old]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pending:
    """A save that is being written."""

    step: int
    temporary: Path
    future: "Future[None] | None"
    """None on ranks that write nothing."""


class AtomicCheckpoint(Callback):
    """Saves when its cadence says so; a failed save costs nothing that was saved.

    At most one save is in flight. What went wrong with it is known at the next one, on every rank
    alike; `max_failures` in a row are fatal.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cadence: Cadence,
        keep: int = 2,
        keep_every_n_steps: int = 0,
        background_above_bytes: float = SMALL_BYTES,
        max_failures: int = 3,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"so many checkpoints to keep must be at least 1, got {keep}")
        self.folder = folder
        self.cadence = cadence
        self.rule = KeepRule(last=keep, every_n_steps=keep_every_n_steps)
        self.background_above_bytes = background_above_bytes
        self.max_failures = max_failures
        self.last_step: int | None = None
        """Step of the newest checkpoint that this attempt has completed."""
        self._failures = 0
        self._pending: _Pending | None = None
        self._taken = _TakeOnly()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def setup(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        """Have Lightning hand over the state instead of writing it."""
        del args, kwargs
        if not isinstance(trainer.strategy, ShardedStrategy):
            trainer.strategy.checkpoint_io = self._taken

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Begin to count."""
        del args
        self.cadence.start(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Save when it is due; never in the middle of an optimizer step."""
        del args
        if self.cadence.is_due(trainer):
            begin = time.monotonic()
            self.save(trainer)
            self.cadence.saved(trainer, time.monotonic() - begin)

    def on_train_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Let the last save end before the stage does."""
        del args
        self._settle(trainer)

    def save(self, trainer: lightning.Trainer, *, wait: bool = False) -> bool:
        """Save this step; every rank must call it.

        Args:
            trainer: whose state is saved.
            wait: return only when the checkpoint is complete, or known to have failed.

        Returns:
            Whether the newest save that is through was good.

        Raises:
            UnsavedError: too many saves in a row have failed.
        """
        is_good = self._settle(trainer)
        step = trainer.global_step
        if step == self.last_step:
            return True
        final = self.folder / f"step={step:08d}"
        temporary = final.with_name(f".{final.name}.tmp")
        fault = self._open(temporary) if trainer.is_global_zero else ""
        if fault := trainer.strategy.broadcast(fault):
            return self._failed(step, temporary, fault, is_writer=trainer.is_global_zero)
        trainer.save_checkpoint(temporary / STATE_NAME)  # collects; what writes is below
        write, num_bytes = self._what_to_write(trainer)
        self._pending = self._start(trainer, write, final, temporary)
        large = any_rank(flag=num_bytes > self.background_above_bytes, device=_device(trainer))
        return self._settle(trainer) if wait or not large else is_good

    def _what_to_write(self, trainer: lightning.Trainer) -> tuple[Callable[[], None] | None, int]:
        """The writing of this rank (None: it has nothing to write), and its bytes."""
        if isinstance(trainer.strategy, ShardedStrategy):
            return trainer.strategy.take()
        return self._taken.take()

    def _start(
        self,
        trainer: lightning.Trainer,
        write: Callable[[], None] | None,
        final: Path,
        temporary: Path,
    ) -> _Pending:
        step = trainer.global_step
        future: Future[None] | None = None
        if trainer.is_global_zero and write is not None:
            future = self._writer.submit(self._write, write, final, temporary, step)
        elif write is not None:
            future = self._writer.submit(write)
        return _Pending(step=step, temporary=temporary, future=future)

    def _write(self, write: Callable[[], None], final: Path, temporary: Path, step: int) -> None:
        """Write, seal, rename; only then delete what is older."""
        write()
        seal_folder(temporary, step=step)
        if final.exists():  # left by an attempt that was resumed before it: it is damaged
            shutil.rmtree(final)
        publish_folder(temporary, final)
        for old in self.rule.outdated(sorted(self.folder.glob("step=*")), final):
            shutil.rmtree(old, ignore_errors=True)  # the new one is complete: no reason to fail

    def _open(self, temporary: Path) -> str:
        """Make room for a save; returns what went wrong."""
        try:
            # Once something was saved, a folder that isn't there is a lost storage: made anew, it
            # would fill the disk below the place where it was mounted.
            if self.last_step is None:
                self.folder.mkdir(parents=True, exist_ok=True)
            for stale in self.folder.glob(".step=*.tmp"):
                shutil.rmtree(stale)
            temporary.mkdir()
        except OSError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _settle(self, trainer: lightning.Trainer) -> bool:
        """Wait for the save in flight; all ranks learn alike whether it was good."""
        pending, self._pending = self._pending, None
        if pending is None:
            return True
        error = None if pending.future is None else pending.future.exception()
        fault = "" if error is None else f"{type(error).__name__}: {error}".strip()
        if any_rank(
            flag=error is not None and not isinstance(error, _STORAGE_FAULTS),
            device=_device(trainer),
        ):  # on every rank: one that ended alone would leave the others waiting
            raise CheckpointError(
                f"the checkpoint of step {pending.step} broke ({fault or 'on another rank'})"
            ) from error
        if any_rank(flag=bool(fault), device=_device(trainer)):
            return self._failed(
                pending.step, pending.temporary, fault, is_writer=trainer.is_global_zero
            )
        self.last_step, self._failures = pending.step, 0
        return True

    def _failed(self, step: int, temporary: Path, fault: str, *, is_writer: bool) -> bool:
        """Say it, tidy up, count it; what was saved before is still there."""
        self._failures += 1
        if is_writer:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = "none yet" if self.last_step is None else f"that of step {self.last_step}"
            _LOG.error(
                "the checkpoint of step %d could not be written to %s (%s); the newest of this "
                "attempt is %s. Failure %d of %d in a row",
                *(step, self.folder, fault or "on another rank", kept),
                *(self._failures, self.max_failures),
            )
        if self._failures >= self.max_failures:
            raise UnsavedError(
                f"{self._failures} checkpoints in a row could not be written to {self.folder} "
                f"({fault or 'see rank 0'}); make room or repair the storage and start again: the "
                "newest whole checkpoint is still there"
            )
        return False


class _TakeOnly(TorchCheckpointIO):
    """Keeps a copy of the state that Lightning wants to save, for a thread to write."""

    def __init__(self) -> None:
        super().__init__()
        self._state: tuple[Mapping[str, Any], Path] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Copy now: the parameters change with the next step."""
        del storage_options
        self._state = (copy_to_cpu(checkpoint), Path(path))

    def take(self) -> tuple[Callable[[], None] | None, int]:
        """The writing of the state, once; its size in bytes."""
        if self._state is None:
            return None, 0
        (state, path), self._state = self._state, None
        return lambda: torch.save(state, path), count_bytes(state)


def _device(trainer: lightning.Trainer) -> torch.device:
    return trainer.strategy.root_device
