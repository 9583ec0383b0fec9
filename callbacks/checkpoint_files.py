"""Checkpoints as they lie on disk: a folder with a seal that lists every file and its checksum.

A state is one file (one process, DDP) or a folder of one file per rank (FSDP2); the seal has both.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from core.io.files import atomic_write_text, sha256_file
from core.process.log import get_logger

_LOG = get_logger("checkpoints")
STATE = "checkpoint.ckpt"
_SEAL = "complete.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SavedState:
    """A checkpoint that is whole."""

    path: Path
    """What `trainer.fit(ckpt_path=...)` takes: a file, or a folder of a sharded state."""
    step: int


def latest_checkpoint(folder: Path) -> SavedState | None:
    """The newest checkpoint whose checksums hold; damaged ones are named, kept and passed over."""
    for candidate in sorted(folder.glob("step=*"), reverse=True):
        reason = damage(candidate)
        if reason is None:
            step = json.loads((candidate / _SEAL).read_text())["step"]
            return SavedState(path=candidate / STATE, step=step)
        _LOG.warning("checkpoint %s is damaged (%s); trying the one before", candidate, reason)
    return None


def seal(folder: Path, step: int) -> None:
    """Flush every file to the disk and write down what it must be."""
    files = {}
    for path in _files(folder):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        files[str(path.relative_to(folder))] = {
            "sha256": sha256_file(path),
            "num_bytes": path.stat().st_size,
        }
    atomic_write_text(folder / _SEAL, json.dumps({"step": step, "files": files}))


def publish(temporary: Path, final: Path) -> None:
    """Give a sealed folder its name, for good."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(final)
    _fsync_folder(final.parent)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if nothing is."""
    try:
        expected = json.loads((folder / _SEAL).read_bytes())
        entries = _entries(expected)
    except OSError as error:
        return f"{_SEAL}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_SEAL} is not one"
    if not entries:
        return "it lists no file"
    # All sizes before any checksum: most damage is seen without reading gigabytes.
    for check in (_size_fault, _sum_fault):
        for name, (num_bytes, checksum) in entries.items():
            try:
                fault = check(folder / name, num_bytes, checksum)
            except OSError as error:
                fault = str(error.strerror)
            if fault is not None:
                return f"{name}: {fault}"
    return None


def _size_fault(path: Path, num_bytes: int, checksum: str) -> str | None:
    del checksum
    found = path.stat().st_size
    return None if found == num_bytes else f"{found} bytes instead of {num_bytes}"


def _sum_fault(path: Path, num_bytes: int, checksum: str) -> str | None:
    del num_bytes
    return None if sha256_file(path) == checksum else "checksum differs"


def _entries(sealed: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """File -> bytes and checksum. A seal of the first versions is that of its only file."""
    _ = int(sealed["step"])
    files = sealed.get("files", {STATE: sealed})
    return {name: (int(entry["num_bytes"]), str(entry["sha256"])) for name, entry in files.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
