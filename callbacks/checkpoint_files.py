"""Checkpoints on disk: sealed folders named after their optimizer step.

A state is one file (one process, DDP) or a folder with one file per rank (FSDP2).
"""

import dataclasses
from pathlib import Path

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
