"""Import of a bundle into an output folder, which may be killed at any moment.

Everything is unpacked and verified beside the store, and only then moved into place: first stage
runs, then the grids that list them. What the folder already has is never replaced by something
that has less.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import ConfigError, DataError
from core.file_names import FILE_NAME
from core.io.files import safe_join
from core.io.reading import reading
from core.io.sealed_folder import find_damage, read_seal
from pipeline.store.bundle import BUNDLE_FORMAT, MANIFEST, STAGE_FILES
from pipeline.store.inventory import (
    CHECKPOINTS,
    LEFT_OUT,
    RESULT,
    StoredGrid,
    parse_grid,
    read_stage,
)
from pipeline.store.locks import GRIDS_FOLDER, STORE_FOLDER
from pipeline.store.notes import read_grid_json
from pipeline.store.removal import INCOMING, move_to_trash

_STAGE_PATH = re.compile(r"store/(?P<kind>\w{1,60})/(?P<address>[0-9a-f]{8,64})/(?P<file>.+)")
_GRID_PATH = re.compile(r"grids/(?P<grid>[^/]+)/(?P<file>.+)")
_CHUNK_BYTES = 1 << 20
_FIX = "get the file again"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImportResult:
    """Numbers of stage runs that an import has added or kept."""

    grids: tuple[str, ...]
    added: int
    """Stage runs that the folder did not have, or not completely."""
    kept: int
    """Stage runs that it had already."""
    incomplete: int
    """Stage runs among all of the bundle that lack large files, such as weights."""


def import_bundle(file: Path, root: Path, *, name: str = "") -> ImportResult:
    """Add the grids and stage runs of a bundle to an output folder.

    Args:
        file: The tar file.
        root: Output folder, which the caller holds (`changing_store`).
        name: New name of the grid; empty keeps the names.

    Raises:
        ConfigError: If a grid of this name exists with other stage runs, or `name` does not fit.
        DataError: If the file is damaged, or is not a bundle.
    """
    incoming = root / STORE_FOLDER / INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    try:
        with reading(file, fix=_FIX), tarfile.open(file, "r:") as tar:
            _unpack(tar, incoming, file)
        grids = [_read_grid(path, file) for path in sorted((incoming / GRIDS_FOLDER).glob("*"))]
        if not grids:
            raise DataError(f"{file} has no grid; {_FIX}")
        names = _new_names(grids, root, name)
        stages = sorted((incoming / STORE_FOLDER).glob("*/*"))
        for path in stages:
            _check_stage(path, file)
        incomplete = sum((path / LEFT_OUT).is_file() for path in stages)
        added = sum(_place_stage(path, root / STORE_FOLDER / path.parent.name) for path in stages)
        for grid in grids:
            _place_grid(grid, root / GRIDS_FOLDER / names[grid.name])
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return ImportResult(
        grids=tuple(names.values()),
        added=added,
        kept=len(stages) - added,
        incomplete=incomplete,
    )


def _unpack(tar: tarfile.TarFile, folder: Path, file: Path) -> None:
    """Unpack and verify all files that the manifest of a bundle lists."""
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        if not member.isfile() or member.name in members:
            raise DataError(f"{file}: member '{member.name}' is not part of a bundle; {_FIX}")
        members[member.name] = member
    if MANIFEST not in members:
        raise DataError(f"{file} has no {MANIFEST}, so it is not a complete bundle; {_FIX}")
    listed = _read_manifest(_read_member(tar, members.pop(MANIFEST)), file)
    if listed.keys() != members.keys():
        odd = sorted(listed.keys() ^ members.keys())[0]
        raise DataError(f"{file}: '{odd}' is either missing or not listed; {_FIX}")
    for name, member in members.items():
        target = safe_join(folder, name)
        if name == "README.txt":
            continue
        if ".." in name.split("/") or not (
            _STAGE_PATH.fullmatch(name) or _GRID_PATH.fullmatch(name)
        ):
            raise DataError(f"{file}: '{name}' is no file of a grid or a stage run; {_FIX}")
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        source = tar.extractfile(member)
        with target.open("wb") as out:
            while source is not None and (chunk := source.read(_CHUNK_BYTES)):
                digest.update(chunk)
                out.write(chunk)
        if digest.hexdigest() != listed[name]:
            raise DataError(f"{file}: the checksum of '{name}' differs; {_FIX}")


def _read_manifest(content: bytes, file: Path) -> dict[str, str]:
    """Return the checksum of every file."""
    raw: Mapping[str, Any] = json.loads(content)
    if raw["format"] != BUNDLE_FORMAT:
        raise DataError(
            f"{file} has format {raw['format']}, this version reads {BUNDLE_FORMAT}; update "
            "Irudimen"
        )
    return {str(name): str(entry["sha256"]) for name, entry in raw["files"].items()}


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    source = tar.extractfile(member)
    return b"" if source is None else source.read()


def _read_grid(path: Path, file: Path) -> StoredGrid:
    if not FILE_NAME.fullmatch(path.name):
        raise DataError(f"{file}: '{path.name}' can't be the name of a grid; {_FIX}")
    with reading(file, fix=_FIX):
        return parse_grid(path, read_grid_json(path))


def _new_names(grids: list[StoredGrid], root: Path, name: str) -> dict[str, str]:
    """Return the name of every grid in the output folder."""
    if name and len(grids) != 1:
        raise ConfigError(f"--name names one grid, but the bundle has {len(grids)}; omit it")
    names = {grid.name: name or grid.name for grid in grids}
    for grid in grids:
        folder = root / GRIDS_FOLDER / names[grid.name]
        if not (folder / "grid.json").is_file():
            if any(not path.name.startswith(".") for path in folder.glob("*")):
                raise ConfigError(f"{folder} exists and is no grid that has run; choose a --name")
            continue
        if parse_grid(folder, read_grid_json(folder)).cells != grid.cells:
            raise ConfigError(
                f"{folder} is another grid of this name; import it under a new one with --name"
            )
    return names


def _check_stage(path: Path, file: Path) -> None:
    """Check that an unpacked stage run is complete, or lacks only what it says."""
    if stage_error := read_stage(path).error:
        raise DataError(f"{file}: {stage_error}; {_FIX}")
    about = json.loads((path / "stage.json").read_text(encoding="utf-8"))
    if (about.get("kind"), about.get("address")) != (path.parent.name, path.name):
        raise DataError(f"{file}: {path.parent.name}/{path.name} describes another one; {_FIX}")
    if not (path / LEFT_OUT).is_file():
        if reason := find_damage(path / RESULT):
            raise DataError(f"{file}: {path.parent.name}/{path.name}: {reason}; {_FIX}")
        return
    with reading(file, fix=_FIX):
        left_out = json.loads((path / LEFT_OUT).read_text(encoding="utf-8"))["files"]
        listed = read_seal(path / RESULT).files
    present = {name for name in listed if (path / RESULT / name).is_file()}
    if present | set(left_out) != listed.keys():
        raise DataError(f"{file}: {path.parent.name}/{path.name} lacks files; {_FIX}")


def _place_stage(path: Path, folder: Path) -> bool:
    """Move a stage run into the store; return whether it was needed there."""
    target = folder / path.name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        return True
    present = read_stage(target)
    if present.is_busy or present.is_done:
        return False
    is_whole = not (path / LEFT_OUT).is_file()
    if not is_whole and ((target / RESULT).is_dir() or (target / CHECKPOINTS).is_dir()):
        return False
    # The folder of an interrupted stage run keeps its checkpoints until the result is in place.
    names = STAGE_FILES if is_whole else (*STAGE_FILES, LEFT_OUT)
    for name in names:
        if (path / name).is_file():
            (path / name).replace(target / name)
    if (target / RESULT).is_dir():
        move_to_trash(folder.parent.parent, target / RESULT)
    (path / RESULT).rename(target / RESULT)
    if is_whole:
        (target / LEFT_OUT).unlink(missing_ok=True)
    return True


def _place_grid(grid: StoredGrid, target: Path) -> None:
    """Move the folder of a grid into place, unless it exists."""
    if (target / "grid.json").is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # created by a command that was killed before it described the grid
        shutil.rmtree(target)
    grid.path.rename(target)
