"""Run all tests in several pytest processes side by side.

    python tools/run_tests.py [options of pytest]

Two processes compute, each on half of the tests by measured time. A third one runs the tests that
wait most of the time, for daemons, imports of jobs and other nodes; it would leave a core idle.
The output of a process is shown when all are done, except that of the last one.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

WAITING = (
    "tests/integration/distributed/test_nodes.py",
    "tests/integration/distributed/test_slurm.py",
    "tests/integration/tracking",
)
"""Every test here is marked `slow`."""
FIRST_HALF = (
    "tests/golden",
    "tests/integration/commands/test_lowbit_command.py",
    "tests/integration/data",
    "tests/integration/distributed/test_precisions.py",
    "tests/integration/distributed/test_sharded.py",
    "tests/integration/distributed/test_two_ranks.py",
    "tests/unit/benchmarks",
    "tests/unit/configuration",
    "tests/unit/data_prep",
    "tests/unit/evaluation",
    "tests/unit/planner",
    "tests/unit/reporting",
)
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 8 * 2**30
"""Free main memory that the files of the tests may take; they are much smaller."""
_NO_TESTS = 5
"""Exit code of pytest if it found no tests, as when options select those of another process."""


def main(options: Sequence[str]) -> int:
    """Run all processes; return 0 if they passed."""
    command = [sys.executable, "-m", "pytest", *options]
    folder = _make_folder()
    parts = {"first": FIRST_HALF}
    if not any("not slow" in option for option in options):
        parts["waiting"] = WAITING
    # More threads than cores slow all processes down.
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
    rest = [f"--ignore={path}" for path in (*FIRST_HALF, *WAITING)]
    with contextlib.ExitStack() as stack:
        beside = []
        for name, paths in parts.items():
            log = stack.enter_context(tempfile.TemporaryFile())
            words = [*command, f"--basetemp={folder / name}", *paths]
            started = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
            beside.append((started, log))
        words = [*command, f"--basetemp={folder / 'rest'}", *rest]
        try:
            codes = [subprocess.run(words, env=environment, check=False).returncode]
        finally:  # also after Ctrl-C, which all processes receive
            ended = [process.wait() for process, _ in beside]
            for _, log in beside:
                log.seek(0)
                shutil.copyfileobj(log, sys.stdout.buffer)
            sys.stdout.flush()
    codes += ended
    failed = [code for code in codes if code not in (0, _NO_TESTS)]
    if failed:
        sys.stdout.write(f"The files of the tests are in {folder}.\n")
        return failed[0]
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if 0 in codes else _NO_TESTS


def _make_folder() -> Path:
    """Return a new folder for the files of the tests, in main memory if much of it is free.

    On a disk, tests wait for thousands of files to be written and deleted. PostgreSQL and munge run
    as other users, which need access to the files of their tests; pytest removes that access from
    its default folders whenever another pytest starts.
    """
    free = min(_free_bytes(_MEMORY), psutil.virtual_memory().available)
    where = _MEMORY if free >= _MEMORY_BYTES else None
    return Path(tempfile.mkdtemp(prefix="irudimen-tests-", dir=where))


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
