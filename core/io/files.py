"""Files that are never half written, and paths that never leave their folder."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from core.errors import DataError

_CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A temporary name beside the file to write to; flushed to disk, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the others wait. A process that dies lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary name beside the file, flush to disk, then rename over it."""
    with atomic_file(path) as file:
        file.write(content)


def atomic_write_text(path: Path, content: str) -> None:
    """Write UTF-8 text as `atomic_write_bytes` does."""
    atomic_write_bytes(path, content.encode("utf-8"))


def sha256_bytes(content: bytes) -> str:
    """Hexadecimal sha256 of a byte string."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def safe_join(folder: Path, relative: str) -> Path:
    """Join a path that came from a file, refusing one that would leave the folder.

    Raises:
        DataError: the path is absolute or climbs out through `..` or a link.
    """
    root = folder.resolve()
    joined = (root / relative).resolve()
    if Path(relative).is_absolute() or not joined.is_relative_to(root):
        raise DataError(f"path '{relative}' leaves its folder {folder}; give one inside it")
    return joined
