"""Limits of the machine or container in which a process runs."""

import os
import tempfile
from multiprocessing import util
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
_SLURM_CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
_MAX_SOCKET_FOLDER_BYTES = 64
"""A Unix socket has at most 107 bytes, of which multiprocessing uses about 40 for its names."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def available_cores() -> int:
    """Return the number of CPU cores that this process may use.

    It is the smallest of the affinity of the process, the quota of its cgroup (containers) and the
    allocation of its SLURM job.
    """
    limits = [float(len(os.sched_getaffinity(0)))]
    if (quota := _cgroup_quota()) is not None:
        limits.append(quota)
    allocated = next((os.environ[name] for name in _SLURM_CORES if os.environ.get(name)), "")
    if allocated.isdigit():
        limits.append(float(allocated))
    return max(1, int(min(limits)))


def _cgroup_quota() -> float | None:
    """Return the CPU quota in cores, or None if there is none."""
    try:
        if _CGROUP_V2.is_file():
            quota, period = _CGROUP_V2.read_text().split()
        else:
            quota, period = (
                (_CGROUP_V1 / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def use_short_socket_folder() -> None:
    """Make multiprocessing create its sockets in a short folder if TMPDIR is long.

    Batch systems set TMPDIR to paths in which a Unix socket does not fit.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= _MAX_SOCKET_FOLDER_BYTES:
        return
    before = tempfile.tempdir
    tempfile.tempdir = next((name for name in _SHORT_FOLDERS if os.access(name, os.W_OK)), before)
    try:
        util.get_temp_dir()  # multiprocessing keeps the folder that its first call chooses
    finally:
        tempfile.tempdir = before
