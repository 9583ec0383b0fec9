"""Folders that are complete or absent: written under another name, sealed, renamed, then verified.

The seal, `complete.json`, lists the size and the sha256 of every file, and its own checksum.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from core.config import fingerprint
from core.io.files import atomic_write_text, sha256_file, use_umask

SEAL_FILE = "complete.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SealEntry:
    """Expected size and checksum of a file."""

    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """Content of `complete.json`."""

    files: dict[str, SealEntry]
    """Path relative to the folder -> what the file must be."""
    metadata: dict[str, Any]


def seal_folder(folder: Path, **metadata: Any) -> None:
    """Flush every file of a folder to disk and write its seal.

    Args:
        folder: Folder with all its files.
        **metadata: JSON values to store in the seal.
    """
    for leftover in folder.rglob(".*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    use_umask(folder)
    entries = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        entry = SealEntry(num_bytes=path.stat().st_size, sha256=sha256_file(path))
        entries[str(path.relative_to(folder))] = dataclasses.asdict(entry)
    content = {"metadata": metadata, "files": entries}
    sealed = {**content, "checksum": fingerprint(content)}
    atomic_write_text(folder / SEAL_FILE, json.dumps(sealed, indent=1))


def publish_folder(temporary: Path, final: Path) -> None:
    """Rename a sealed folder to its final name and flush the rename to disk."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_seal(folder: Path) -> Seal:
    """Read the seal of a folder.

    Raises:
        OSError: If there is none.
        ValueError: If it is damaged.
    """
    content = json.loads((folder / SEAL_FILE).read_bytes())
    try:
        checksum = content.pop("checksum")
        if checksum != fingerprint(content):
            raise ValueError(f"the checksum of {folder / SEAL_FILE} differs")
        entries = {
            name: SealEntry(num_bytes=int(entry["num_bytes"]), sha256=str(entry["sha256"]))
            for name, entry in content["files"].items()
        }
        return Seal(files=entries, metadata=dict(content["metadata"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / SEAL_FILE} has no {error}") from error


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder, or None if it is intact."""
    try:
        seal = read_seal(folder)
    except OSError as error:
        return f"{SEAL_FILE}: {error.strerror}"
    except ValueError:
        return f"{SEAL_FILE} is damaged"
    if not seal.files:
        return f"{SEAL_FILE} lists no files"
    # All sizes before any checksum: most damage is found without reading gigabytes.
    for check in (_check_size, _check_sum):
        for name, entry in seal.files.items():
            try:
                reason = check(folder / name, entry)
            except OSError as error:
                reason = str(error.strerror)
            if reason is not None:
                return f"{name}: {reason}"
    return None


def _check_size(path: Path, entry: SealEntry) -> str | None:
    found, expected = path.stat().st_size, entry.num_bytes
    return None if found == expected else f"{found} bytes instead of {expected}"


def _check_sum(path: Path, entry: SealEntry) -> str | None:
    return None if sha256_file(path) == entry.sha256 else "checksum differs"
