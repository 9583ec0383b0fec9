"""Locks of a store: commands that run a grid share it, and commands that change it hold it alone.

The lock is that of a whole output folder. Each stage run also has one, which its worker holds
(`pipeline.store.store.StageFolder.locked`); a SLURM job holds only that.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from core.errors import ConfigError
from core.io.files import present

STORE_FOLDER, GRIDS_FOLDER = "store", "grids"
"""Folders of the stage runs and of the descriptions of grids in an output folder."""
STAGE_LOCK = "lock"
"""Lock file in the folder of a stage run."""
RUNNING_MARK = ".running"
"""File in the folder of a grid that every command holds while it runs the grid."""
_LOCK = ".store.lock"


@contextlib.contextmanager
def using_store(root: Path) -> Iterator[None]:
    """Keep other commands from deleting results; wait until one that does so has ended."""
    with present(root / _LOCK):
        yield


@contextlib.contextmanager
def changing_store(root: Path) -> Iterator[None]:
    """Hold a store alone.

    Raises:
        ConfigError: If a grid is running, or another command changes the store.
    """
    path = root / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if not _try_lock(file.fileno()):
            names = sorted(
                one.parent.name
                for one in (root / GRIDS_FOLDER).glob(f"*/{RUNNING_MARK}")
                if is_held(one)
            )
            who = f"grid {', '.join(names)} is running" if names else "another command uses it"
            raise ConfigError(
                f"{root / STORE_FOLDER} can't be changed: {who}; wait until it has ended"
            )
        yield


def is_held(path: Path) -> bool:
    """Return whether another process holds a lock file."""
    try:
        with path.open("r") as file:
            return not _try_lock(file.fileno())
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
