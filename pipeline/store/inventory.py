"""Inventory of an output folder: its grids and stage runs, their sizes, and what needs what.

A grid needs the stage runs that its `grid.json` lists, and everything from which they were
computed. A stage run that a process is working on is needed as well.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from core.errors import DataError
from core.io.reading import reading
from pipeline.store.locks import GRIDS_FOLDER, RUNNING_MARK, STAGE_LOCK, STORE_FOLDER, is_held
from pipeline.store.notes import read_grid_json, read_json

LEFT_OUT = "left_out.json"
"""File of a stage run whose imported result lacks some files: it lists them."""
RESULT, SCRATCH, CHECKPOINTS = "result", "result.tmp", "checkpoints"
"""Folders of a stage run: its complete result, and what it writes before."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredStage:
    """One stage run in the store."""

    path: Path
    title: str
    inputs: tuple[str, ...]
    """Addresses of the stage runs whose results it read."""
    error: str = ""
    """Why its description can't be read; empty if it can."""

    @property
    def kind(self) -> str:
        """Kind of the stage run."""
        return self.path.parent.name

    @property
    def address(self) -> str:
        """Address of the stage run."""
        return self.path.name

    @property
    def is_done(self) -> bool:
        """True if it has a result, whose checksums are not verified here."""
        return (self.path / RESULT).is_dir() and not self.lacks_files

    @property
    def lacks_files(self) -> bool:
        """True if its result was imported without some of its files."""
        return (self.path / LEFT_OUT).is_file()

    @property
    def is_busy(self) -> bool:
        """True while a process is working on it."""
        return is_held(self.path / STAGE_LOCK)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredGrid:
    """One grid, as its `grid.json` describes it."""

    path: Path
    experiment: str
    cells: Mapping[str, Mapping[str, str]]
    """Cell id -> kind -> address."""
    other_stages: tuple[str, ...]
    """Addresses of the stage runs of a grid without cells."""

    @property
    def name(self) -> str:
        """Name of the grid's folder."""
        return self.path.name

    @property
    def addresses(self) -> frozenset[str]:
        """Addresses of all stage runs that the grid lists."""
        of_cells = (address for stages in self.cells.values() for address in stages.values())
        return frozenset([*of_cells, *self.other_stages])

    @property
    def is_running(self) -> bool:
        """True while a command is running the grid on this machine."""
        return is_held(self.path / RUNNING_MARK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inventory:
    """The grids and the stage runs of an output folder."""

    root: Path
    grids: Mapping[str, StoredGrid]
    """Name -> grid."""
    stages: Mapping[str, StoredStage]
    """Address -> stage run."""

    @classmethod
    def of(cls, root: Path) -> Self:
        """Read an output folder.

        Raises:
            DataError: If the description of a grid can't be read: what it needs is then unknown.
        """
        return cls(
            root=root,
            grids={grid.name: grid for grid in _read_grids(root / GRIDS_FOLDER)},
            stages={stage.address: stage for stage in _read_stages(root / STORE_FOLDER)},
        )

    def get_grid(self, name: str) -> StoredGrid:
        """Return a grid by its name.

        Raises:
            DataError: If there is none.
        """
        if name not in self.grids:
            known = ", ".join(self.grids) or "none"
            raise DataError(f"no grid '{name}' under {self.root}; found: {known}")
        return self.grids[name]

    @cached_property
    def needed(self) -> frozenset[str]:
        """Addresses of the stage runs that a grid or a running process needs.

        Raises:
            DataError: If the description of one of them is damaged, so that its inputs are unknown.
        """
        listed = [address for grid in self.grids.values() for address in grid.addresses]
        busy = [stage.address for stage in self.stages.values() if stage.is_busy]
        found = self.with_inputs([*listed, *busy])
        for address in sorted(found & self.stages.keys()):
            if error := self.stages[address].error:
                raise DataError(f"{error}, so that it is unknown from what it was computed")
        return found

    def with_inputs(self, addresses: Iterable[str]) -> frozenset[str]:
        """Return stage runs and everything from which they were computed."""
        return _closure(addresses, {a: stage.inputs for a, stage in self.stages.items()})

    def with_dependents(self, addresses: Iterable[str]) -> frozenset[str]:
        """Return stage runs and everything that was computed from them."""
        downstream: dict[str, list[str]] = {}
        for address, stage in self.stages.items():
            for one in stage.inputs:
                downstream.setdefault(one, []).append(address)
        return _closure(addresses, downstream)

    def in_deletion_order(self, addresses: Collection[str]) -> list[StoredStage]:
        """Return stage runs that exist, each one before those from which it was computed."""
        remaining = {a: self.stages[a] for a in sorted(addresses) if a in self.stages}
        ordered: list[StoredStage] = []
        while remaining:
            read = {one for stage in remaining.values() for one in stage.inputs}
            free = [a for a in remaining if a not in read] or list(remaining)
            ordered += [remaining.pop(address) for address in free]
        return ordered

    def users(self, address: str) -> list[tuple[str, str]]:
        """Return the grids and cells that list a stage run; the cell is empty in other grids."""
        found = []
        for grid in self.grids.values():
            if address in grid.other_stages:
                found.append((grid.name, ""))
            found += [
                (grid.name, cell) for cell, one in grid.cells.items() if address in one.values()
            ]
        return found


def folder_bytes(path: Path) -> int:
    """Return the size of all files in a folder; files that vanish meanwhile do not count."""
    total = 0
    for file in path.rglob("*"):
        try:
            status = file.lstat()
        except FileNotFoundError:
            continue
        if not file.is_dir():
            total += status.st_size
    return total


def format_bytes(number: float) -> str:
    """Format a size with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:  # noqa: PLR2004
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def _closure(start: Iterable[str], following: Mapping[str, Collection[str]]) -> frozenset[str]:
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        address = waiting.pop()
        if address not in found:
            found.add(address)
            waiting += following.get(address, ())
    return frozenset(found)


def _read_grids(folder: Path) -> Iterator[StoredGrid]:
    for path in sorted(one for one in folder.glob("*") if one.is_dir()):
        if path.name.startswith("."):
            continue
        if (path / "grid.json").is_file():
            raw = read_grid_json(path)
            with reading(path / "grid.json", fix="run the grid again, which writes it"):
                yield parse_grid(path, raw)
        elif (path / RUNNING_MARK).exists() or (path / "report").exists():
            raise DataError(
                f"{path} has no grid.json, so that the results that it needs are unknown; run the "
                "grid again, which writes it, or delete the folder"
            )


def parse_grid(path: Path, raw: Mapping[str, Any]) -> StoredGrid:
    """Return the grid that the content of a `grid.json` describes."""
    return StoredGrid(
        path=path,
        experiment=str(raw.get("experiment", "")),
        cells={str(cell["cell_id"]): dict(cell["stages"]) for cell in raw["cells"]},
        other_stages=tuple(map(str, raw.get("stages") or ())),
    )


def _read_stages(store: Path) -> Iterator[StoredStage]:
    for path in sorted(store.glob("[!.]*/[!.]*")):
        if path.is_dir():
            yield read_stage(path)


def read_stage(path: Path) -> StoredStage:
    """Read the description of a stage run; a damaged one is no error here."""
    try:
        about = read_json(path / "stage.json", default={})
        with reading(path / "stage.json", fix="run the stage again"):
            upstream = about.get("upstream", {}).values()
            inputs = [address for _, address in about.get("inputs", {}).values()]
    except DataError as error:
        message = str(error).rpartition(";")[0]
        return StoredStage(path=path, title="(damaged description)", inputs=(), error=message)
    return StoredStage(
        path=path,
        title=str(about.get("title") or path.parent.name),
        inputs=tuple(dict.fromkeys([*inputs, *map(str, upstream)])),
    )
