"""Limits of the machine or container in which a process runs."""

import dataclasses
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path
from typing import Any

from core.errors import ConfigError

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_SLURM_CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
_MAX_SOCKET_FOLDER_BYTES = 64
"""A Unix socket has at most 107 bytes, of which multiprocessing uses about 40 for its names."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_SHARED_MEMORY = Path("/dev/shm")
_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""torch's variable for the settings of its allocator, and an older name that it still reads."""


def available_cores() -> int:
    """Return the number of CPU cores that this process may use.

    It is the smallest of the affinity of the process, the quotas of its cgroups (containers,
    services) and the allocation of its SLURM job.
    """
    limits = [float(len(os.sched_getaffinity(0))), *_cgroup_quotas()]
    allocated = next((os.environ[name] for name in _SLURM_CORES if os.environ.get(name)), "")
    if allocated.isdigit():
        limits.append(float(allocated))
    return max(1, int(min(limits)))


def _cgroup_quotas() -> Iterator[float]:
    """Yield the CPU quotas in cores of the cgroups of this process and of those around them."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        lines = ["0::/", "1:cpu:/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = _CGROUPS / "cpu" if controllers else _CGROUPS
        # A container may see the path that its cgroup has outside; its own is then the root.
        for folder in (base / path.lstrip("/"), *(base / path.lstrip("/")).parents):
            if folder.is_relative_to(base):
                yield from _quota_of(folder)


def _quota_of(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        if quota != "max" and float(quota) > 0:
            yield float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return


def raise_open_files_limit() -> int:
    """Raise the limit of open files to the largest value that this process may set; return it.

    Loader workers hand over every tensor as a file descriptor, and every open shard takes one. The
    usual limit of 1,024 is meant for programs that use `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def prefer_expandable_segments() -> None:
    """Make torch's CUDA allocator grow its segments, unless its settings are set already.

    Micro-batches differ in length, so blocks of memory are rarely reused in the same size. With
    segments of fixed size, a device that is nearly full runs out of memory although gigabytes are
    reserved and unused. torch reads the variable when CUDA starts.
    """
    if not any(name in os.environ for name in _ALLOCATOR_VARIABLES):
        os.environ[_ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SharedMemory:
    """Size of the file system through which processes share tensors, in bytes."""

    total: int
    free: int


def read_shared_memory() -> SharedMemory | None:
    """Return the size of /dev/shm, or None if there is none."""
    if not _SHARED_MEMORY.is_dir():
        return None
    usage = shutil.disk_usage(_SHARED_MEMORY)
    return SharedMemory(total=usage.total, free=usage.free)


def use_short_socket_folder(library: Any = util) -> None:
    """Make multiprocessing create its sockets in a short folder if TMPDIR is long.

    Batch systems set TMPDIR to paths in which a Unix socket does not fit.

    Args:
        library: The module `util` of multiprocessing, or of a library that copies it.

    Raises:
        ConfigError: If no folder for temporary files can be written, or only ones that are too
            long.
    """
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{error.strerror}; set TMPDIR to a folder that can be written"
        ) from error
    if len(os.fsencode(folder)) <= _MAX_SOCKET_FOLDER_BYTES:
        return
    short = next((name for name in _SHORT_FOLDERS if os.access(name, os.W_OK)), None)
    if short is None:
        raise ConfigError(
            f"the folder for temporary files {folder} is too long for a Unix socket; set TMPDIR to "
            f"one of at most {_MAX_SOCKET_FOLDER_BYTES} bytes"
        )
    before, tempfile.tempdir = tempfile.tempdir, short
    try:
        library.get_temp_dir()  # multiprocessing keeps the folder that its first call chooses
    finally:
        tempfile.tempdir = before
