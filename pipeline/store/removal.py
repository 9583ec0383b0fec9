"""Removal of stage runs and grids, which may be killed at any moment.

A folder is first renamed into `store/.trash` and only then deleted, so that no half of a result is
ever taken for a whole one. Of stage runs that depend on each other, the last one goes first.
"""

import contextlib
import dataclasses
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from core.errors import ConfigError, unknown_name
from core.io.files import locked
from core.io.sealed_folder import find_damage
from pipeline.store.inventory import (
    CHECKPOINTS,
    RESULT,
    SCRATCH,
    Inventory,
    StoredGrid,
    StoredStage,
)
from pipeline.store.locks import STAGE_LOCK, STORE_FOLDER

_TRASH = ".trash"
INCOMING = ".incoming"
"""Folder in the store in which an import is unpacked."""
_LOCK_TIMEOUT_S = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """Folders that a command deletes."""

    stages: tuple[StoredStage, ...]
    """Stage runs in the order of their deletion."""
    leftovers: tuple[Path, ...] = ()
    """Folders of interrupted processes in stage runs that stay."""
    grids: tuple[StoredGrid, ...] = ()
    kept: tuple[StoredStage, ...] = ()
    """Stage runs of the chosen cells that stay because other cells need them."""

    @property
    def paths(self) -> list[Path]:
        """All folders."""
        of_grids = [grid.path for grid in self.grids]
        return [*of_grids, *(stage.path for stage in self.stages), *self.leftovers]


def plan_prune(inventory: Inventory) -> Removal:
    """Return everything that no grid needs."""
    spare = inventory.stages.keys() - inventory.needed
    kept = [stage for address, stage in inventory.stages.items() if address not in spare]
    return Removal(
        stages=tuple(inventory.in_deletion_order(spare)),
        leftovers=(
            *(path for stage in kept for path in _leftovers(stage)),
            *_interrupted(inventory.root),
        ),
    )


def plan_removal(
    inventory: Inventory, name: str, cells: Collection[str] = (), *, stage_kind: str = ""
) -> Removal:
    """Return what the removal of cells deletes, or of a whole grid if no cell is named.

    Args:
        inventory: The output folder.
        name: Name of the grid.
        cells: Ids of cells.
        stage_kind: Kind of the first stage run to delete, with everything that was computed from
            it, whatever cells need it; empty for the stage runs that only these cells need.

    Raises:
        ConfigError: If a cell or the kind is unknown.
        DataError: If the grid is unknown.
    """
    grid = inventory.get_grid(name)
    for cell in cells:
        if cell not in grid.cells:
            raise ConfigError(unknown_name(f"cell of grid '{name}'", cell, grid.cells))
    chosen = {cell: grid.cells[cell] for cell in cells or grid.cells}
    if stage_kind:
        known = {kind for stages in chosen.values() for kind in stages}
        if stage_kind not in known:
            raise ConfigError(unknown_name("stage kind", stage_kind, known))
        first = {stages[stage_kind] for stages in chosen.values() if stage_kind in stages}
        return Removal(stages=tuple(inventory.in_deletion_order(inventory.with_dependents(first))))
    listed = {address for stages in chosen.values() for address in stages.values()}
    if not cells:
        listed |= set(grid.other_stages)
    others = _needed_by_others(inventory, grid, cells)
    own = inventory.with_dependents(listed - others) - others
    return Removal(
        stages=tuple(inventory.in_deletion_order(own)),
        grids=() if cells else (grid,),
        kept=tuple(inventory.in_deletion_order(listed & others)),
    )


def execute(root: Path, removal: Removal, *, on_step: Callable[[], None] = lambda: None) -> None:
    """Delete; an interrupted call is completed by the next `prune`.

    Args:
        root: Output folder.
        removal: What to delete.
        on_step: Called after each folder.

    Raises:
        ConfigError: If a process is working on one of the stage runs; those before it are deleted.
    """
    trash = root / STORE_FOLDER / _TRASH
    trash.mkdir(parents=True, exist_ok=True)
    for grid in removal.grids:
        move_to_trash(root, grid.path)
        on_step()
    for stage in removal.stages:
        with _alone(stage):
            move_to_trash(root, stage.path)
        on_step()
    for path in removal.leftovers:
        if path.parent.parent.parent == root / STORE_FOLDER:
            with _alone(_stage_of(path)):
                move_to_trash(root, path)
        else:
            shutil.rmtree(path, ignore_errors=True)
        on_step()
    shutil.rmtree(trash, ignore_errors=True)


def move_to_trash(root: Path, path: Path) -> None:
    """Rename a folder into the trash, from which `prune` deletes it."""
    trash = root / STORE_FOLDER / _TRASH
    trash.mkdir(parents=True, exist_ok=True)
    path.rename(trash / f"{path.parent.name}-{path.name}-{secrets.token_hex(4)}")
    _flush(path.parent)


def _needed_by_others(
    inventory: Inventory, grid: StoredGrid, cells: Collection[str]
) -> frozenset[str]:
    """Return the stage runs that other grids, or other cells of the grid, need."""
    listed = [a for other in inventory.grids.values() if other != grid for a in other.addresses]
    if cells:
        kept = (stages for cell, stages in grid.cells.items() if cell not in cells)
        listed += [address for stages in kept for address in stages.values()]
        listed += grid.other_stages
    busy = [stage.address for stage in inventory.stages.values() if stage.is_busy]
    return inventory.with_inputs([*listed, *busy])


def _leftovers(stage: StoredStage) -> Iterator[Path]:
    """Yield what a process left behind that was killed after it had published the result."""
    found = [stage.path / name for name in (SCRATCH, CHECKPOINTS)]
    found = [path for path in found if path.is_dir()]
    if found and stage.is_done and not stage.is_busy and find_damage(stage.path / RESULT) is None:
        yield from found


def _interrupted(root: Path) -> list[Path]:
    """Return the folders of interrupted removals and imports."""
    return [path for name in (_TRASH, INCOMING) if (path := root / STORE_FOLDER / name).is_dir()]


def _stage_of(path: Path) -> StoredStage:
    return StoredStage(path=path.parent, title="", inputs=())


@contextlib.contextmanager
def _alone(stage: StoredStage) -> Iterator[None]:
    try:
        with locked(stage.path / STAGE_LOCK, timeout_s=_LOCK_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise ConfigError(
            f"a process is working on {stage.title or stage.path} ({stage.path}); end it first"
        ) from error


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
