"""Atomic writes, file locks, checksums and safe paths."""

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from core.errors import ConfigError, DataError, PreemptedError
from core.process.log import get_logger

_CHUNK_BYTES = 1 << 20
_LOCK_POLL_S = 0.1
_KNOWN_SHA256: dict[tuple[int, ...], str] = {}
"""Identity of a file that this process has read -> its sha256."""
_UNWRITTEN: set[Path] = set()
_LOG = get_logger("files")
_OWN_STATUS = Path("/proc/self/status")
_UMASK = re.compile(r"^Umask:\s*([0-7]+)", re.MULTILINE)
_WRITE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Name a temporary file next to `path`, which replaces it after a flush to disk.

    For libraries that write to a name; see `atomic_file` for everything else.

    Raises:
        OSError: With the name of the file, if it can't be written; nothing is left of it then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with naming_file(path):
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            use_umask(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path`, which replaces it after a flush to disk.

    Raises:
        OSError: With the name of the file, if it can't be written; nothing is left of it then.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def use_umask(path: Path) -> None:
    """Give a file, or all files of a folder, the permissions that the umask leaves.

    Libraries that write a temporary file first, such as safetensors, leave it private.
    """
    # There is no call that only reads the umask, and setting it would affect other threads.
    found = _UMASK.search(_OWN_STATUS.read_text(encoding="utf-8"))
    usual = 0o666 & ~int(found[1], 8) if found else 0o600
    for file in [path] if path.is_file() else path.rglob("*"):
        mode = stat.S_IMODE(file.stat().st_mode)
        if file.is_file() and usual & ~mode:
            with contextlib.suppress(PermissionError):  # of another user of a shared folder
                file.chmod(mode | usual)


def temporary_path(path: Path) -> Path:
    """Return the path of a hidden file next to `path` that no other writer uses.

    Process ids do not suffice: those of two containers that share a folder are often equal.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Add the name of a file to operating-system errors that lack it, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRNOS or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextlib.contextmanager
def warning_if_unwritten(path: Path) -> Iterator[None]:
    """Turn an error of the system into a warning, for files on which no result depends.

    Of each file only the first error is reported: the next ones follow within milliseconds.
    """
    try:
        yield
    except OSError as error:
        if path not in _UNWRITTEN:
            _UNWRITTEN.add(path)
            reason = "unknown error" if error.errno is None else os.strerror(error.errno)
            _LOG.warning("%s can't be written (%s); no result depends on it", path, reason)


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    timeout_s: float = math.inf,
) -> Iterator[None]:
    """Hold a lock file; other processes wait, and the lock of a process that dies is released.

    Args:
        path: The lock file.
        is_stopped: Asked while waiting; True gives up. A waiting `flock` would resume after a
            signal and could only be killed.
        timeout_s: Longest time to wait.

    Raises:
        PreemptedError: If `is_stopped` returned True before the lock was free.
        TimeoutError: If another process held the lock for too long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with path.open("w") as file:
        while not _try_lock(file):
            if is_stopped():
                raise PreemptedError(f"stopped while another process held {path}")
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock", str(path))
            time.sleep(_LOCK_POLL_S)
        yield


@contextlib.contextmanager
def present(path: Path) -> Iterator[Callable[[], bool]]:
    """Be one of several processes that use something; yield a function that finds others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)

        def has_others() -> bool:
            is_alone = _try_lock(file)
            fcntl.flock(file, fcntl.LOCK_SH)  # a failed attempt gives up the shared lock
            return not is_alone

        yield has_others


def lock_path(target: Path) -> Path:
    """Return the lock file of a file or folder: next to it, or in a folder that is a mount."""
    target = target.absolute()
    if target.is_dir() and not os.access(target.parent, os.W_OK):
        return target / ".lock"
    return target.with_name(f".{target.name}.lock")


@contextlib.contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """Keep other commands from writing a file or folder at the same time.

    Its `lock_path` exists as long as the context.

    Raises:
        ConfigError: If another command is writing it.
    """
    path = lock_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(path.open("w"))
            if not _try_lock(file):
                raise ConfigError(
                    f"another command is writing {target.absolute()}; wait until it has ended, or "
                    "choose another output"
                )
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                break  # otherwise its last holder has just removed it
        stack.callback(path.unlink, missing_ok=True)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_writable(folder: Path) -> None:
    """Create a folder if it is missing, and write and delete a file in it.

    Commands call this before work whose results would otherwise be lost.

    Raises:
        OSError: If the folder can't be created or written; it names the path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(folder / ".probe", b"0")
    (folder / ".probe").unlink()


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a file through `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)


def atomic_write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file through `atomic_file`."""
    atomic_write_bytes(path, content.encode("utf-8"))


def sha256_bytes(content: bytes) -> str:
    """Return the hexadecimal sha256 of a byte string."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file, which is read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_once(path: Path) -> str:
    """Return the sha256 of a file, which is read again only if it has changed since the last call.

    A plan asks for the weights of a backbone once per cell and stage. A file counts as unchanged
    while its inode, size and times are the same, whatever path leads to it.
    """
    status = path.stat()
    identity = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    if identity not in _KNOWN_SHA256:
        _KNOWN_SHA256[identity] = sha256_file(path)
    return _KNOWN_SHA256[identity]


def safe_join(folder: Path, relative: str) -> Path:
    """Join a folder and an untrusted relative path.

    Raises:
        DataError: If the path is absolute, or leaves the folder through `..` or a link.
    """
    if "\0" in relative:
        raise DataError(f"path {relative!r} has a NUL character; correct it")
    root = folder.resolve()
    joined = (root / relative).resolve()
    if Path(relative).is_absolute() or not joined.is_relative_to(root):
        raise DataError(f"path '{relative}' points outside {folder}; use a path inside it")
    return joined
