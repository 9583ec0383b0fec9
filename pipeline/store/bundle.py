"""Bundles of studies: one tar file with grids, their reports and their results.

A bundle has the description, the registered claims and the report of each grid, and of each stage
run its fields, log of metrics, status and result. Large files of results (weights, features) are
left out unless they are asked for. `bundle.json`, the last member, lists every file with its size
and sha256. Equal content gives equal bytes.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from core.errors import CheckpointError, DataError
from core.io.files import atomic_path
from core.io.sealed_folder import SEAL_FILE, find_damage, read_seal
from pipeline.store.inventory import LEFT_OUT, RESULT, Inventory, StoredGrid, StoredStage

MANIFEST = "bundle.json"
BUNDLE_FORMAT = 1
_SMALL_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".md", ".parquet", ".txt", ".yaml"})
"""Files of results that every bundle has; others hold weights or features."""
STAGE_FILES = ("stage.json", "spec.yaml", "status.json", "progress.json", "metrics.jsonl")
"""Files of a stage run besides its result."""
_README = """This file holds results of Irudimen: reports (grids/NAME/report/report.html),
fields of every stage run (store/KIND/ADDRESS/spec.yaml), metrics and predictions.
Load it into an output folder with: python -m experiments.store import FILE.tar
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BundleContent:
    """Content of a bundle."""

    grids: tuple[str, ...]
    num_stages: int
    unfinished: tuple[str, ...]
    """Titles of stage runs that have no complete result and are not part of it."""
    left_out: Mapping[str, int]
    """Path of each file of a result that is left out -> its size."""
    num_files: int
    num_bytes: int


def write_bundle(
    inventory: Inventory, names: Collection[str], out: Path, *, has_weights: bool
) -> BundleContent:
    """Write some grids and everything from which they were computed into a tar file.

    Args:
        inventory: The output folder.
        names: Names of the grids.
        out: Path of the tar file, which appears when it is complete.
        has_weights: Whether results keep their large files.

    Raises:
        CheckpointError: If a result is damaged.
        DataError: If a grid is unknown, none has a result, or a file changes meanwhile.
    """
    grids = [inventory.get_grid(name) for name in dict.fromkeys(names)]
    addresses = inventory.with_inputs(a for grid in grids for a in grid.addresses)
    stages = [inventory.stages[a] for a in sorted(addresses) if a in inventory.stages]
    finished = [stage for stage in stages if (stage.path / RESULT).is_dir()]
    if not finished:
        raise DataError(f"no stage run of {', '.join(names)} is finished; run the grid first")
    missing = addresses - inventory.stages.keys()
    for stage in finished:
        reason = find_damage(stage.path / RESULT)
        if reason is not None and not stage.lacks_files:
            raise CheckpointError(
                f"{stage.path / RESULT} is damaged ({reason}); delete it and run the grid again"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary, tarfile.open(temporary, "w") as tar:
        writer = _BundleWriter(tar, inventory.root)
        writer.add_bytes("README.txt", _README.encode())
        for stage in finished:
            writer.add_stage(stage, has_weights=has_weights)
        for grid in grids:
            writer.add_grid(grid)
        writer.finish([grid.name for grid in grids])
    return BundleContent(
        grids=tuple(grid.name for grid in grids),
        num_stages=len(finished),
        unfinished=(*(s.title for s in stages if s not in finished), *sorted(missing)),
        left_out=writer.left_out,
        num_files=len(writer.files),
        num_bytes=out.stat().st_size,
    )


class _BundleWriter:
    """Adds files to a tar file and records their checksums."""

    def __init__(self, tar: tarfile.TarFile, root: Path) -> None:
        self._tar, self._root = tar, root
        self.files: dict[str, dict[str, int | str]] = {}
        self.left_out: dict[str, int] = {}

    def add_stage(self, stage: StoredStage, *, has_weights: bool) -> None:
        """Add the files of a stage run that matter elsewhere."""
        for name in STAGE_FILES:
            if (stage.path / name).is_file():
                self.add_file(stage.path / name)
        missing: list[str] = []
        seal = _read_seal_files(stage)
        for name in sorted(seal):
            path = stage.path / RESULT / name
            is_small = path.suffix in _SMALL_SUFFIXES
            if path.is_file() and (has_weights or is_small):
                self.add_file(path)
            else:
                missing.append(name)
                self.left_out[self._relative(path)] = seal[name]
        self.add_file(stage.path / RESULT / SEAL_FILE)
        if missing:
            content = json.dumps({"files": missing}, indent=1)
            self.add_bytes(self._relative(stage.path / LEFT_OUT), content.encode())

    def add_grid(self, grid: StoredGrid) -> None:
        """Add the folder of a grid without hidden files, such as locks."""
        for path in sorted(grid.path.rglob("*")):
            is_hidden = any(part.startswith(".") for part in path.relative_to(grid.path).parts)
            if path.is_file() and not is_hidden:
                self.add_file(path)

    def add_file(self, path: Path) -> None:
        """Add a file of the output folder under its relative path."""
        with path.open("rb") as file:
            self._add(self._relative(path), file, path.stat().st_size)

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add a file with this content."""
        self._add(name, io.BytesIO(content), len(content))

    def finish(self, grids: Collection[str]) -> None:
        """Add the list of all files."""
        content = {"format": BUNDLE_FORMAT, "grids": sorted(grids), "files": self.files}
        text = json.dumps(content, indent=1).encode()
        self._tar.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _add(self, name: str, file: BinaryIO, size: int) -> None:
        hashing = _HashingReader(file)
        with _naming(name):
            self._tar.addfile(_member(name, size), hashing)
        self.files[name] = {"num_bytes": size, "sha256": hashing.digest.hexdigest()}


class _HashingReader(io.RawIOBase):
    """A file that computes the sha256 of what is read from it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.digest.update(content)
        return content


def _read_seal_files(stage: StoredStage) -> dict[str, int]:
    """Return the files of a result that its seal lists, with their sizes."""
    seal = read_seal(stage.path / RESULT)
    return {name: entry.num_bytes for name, entry in seal.files.items()}


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Return the header of a file, which has neither an owner nor a time."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        message = f"{name} became shorter while it was read; run the command again"
        raise DataError(message) from error
