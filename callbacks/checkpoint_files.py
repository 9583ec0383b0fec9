"""Checkpoints on disk: sealed folders named after their optimizer step.

A state is one file (one process, DDP) or a folder with one file per rank (FSDP2).
"""

import dataclasses
from pathlib import Path

from core.errors import CheckpointError
from core.io.sealed_folder import find_damage, read_seal
from core.process.log import get_logger

_LOG = get_logger("checkpoints")
STATE_NAME = "checkpoint.ckpt"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SavedState:
    """Complete checkpoint."""

    path: Path
    """Argument of `trainer.fit(ckpt_path=...)`: a file, or the folder of a sharded state."""
    step: int


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return folder / f"step={step:08d}"


def checkpoint_at(folder: Path, step: int) -> SavedState:
    """Return the checkpoint of a step.

    Raises:
        CheckpointError: If it does not exist or is damaged.
    """
    found = checkpoint_folder(folder, step)
    if reason := find_damage(found):
        raise CheckpointError(
            f"checkpoint {found} can't be used ({reason}); delete the result to compute it again"
        )
    return SavedState(path=found / STATE_NAME, step=step)


def latest_checkpoint(folder: Path) -> SavedState | None:
    """Return the newest intact checkpoint; damaged ones are logged, kept and skipped."""
    for candidate in sorted(folder.glob("step=*"), reverse=True):
        reason = find_damage(candidate)
        if reason is None:
            step = int(read_seal(candidate).metadata["step"])
            return SavedState(path=candidate / STATE_NAME, step=step)
        _LOG.warning(
            "checkpoint %s is damaged (%s); falling back to the previous one", candidate, reason
        )
    return None
