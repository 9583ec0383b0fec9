"""Run all tests in two pytest processes side by side.

    python tools/run_tests.py [options of pytest]

The first process runs the folders of `FIRST_HALF`, the second one all other tests; the halves take
about equally long on two cores. The output of the first is shown when both are done.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FIRST_HALF = (
    "tests/integration/distributed",
    "tests/integration/tracking",
    "tests/unit/benchmarks",
    "tests/unit/configuration",
    "tests/unit/data_prep",
    "tests/unit/datamodules",
    "tests/unit/evaluation",
    "tests/unit/planner",
    "tests/unit/reporting",
)
_NO_TESTS = 5
"""Exit code of pytest if it found no tests, as when options select those of the other half."""


def main(options: Sequence[str]) -> int:
    """Run both halves; return 0 if both passed."""
    command = [sys.executable, "-m", "pytest", *options]
    # PostgreSQL and munge run as other users, which need access to the files of their tests.
    # Pytest removes that access from its default folders whenever another pytest starts.
    folder = Path(tempfile.mkdtemp(prefix="irudimen-tests-"))
    first = [*command, f"--basetemp={folder / 'first'}", *FIRST_HALF]
    second = [*command, f"--basetemp={folder / 'second'}"]
    second += [f"--ignore={path}" for path in FIRST_HALF]
    # More threads than cores slow both halves down.
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
    with tempfile.TemporaryFile() as log:
        beside = subprocess.Popen(first, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            here = subprocess.run(second, env=environment, check=False).returncode
        finally:  # also after Ctrl-C, which both processes receive
            there = beside.wait()
            log.seek(0)
            shutil.copyfileobj(log, sys.stdout.buffer)
            sys.stdout.flush()
    codes = (here, there)
    failed = [code for code in codes if code not in (0, _NO_TESTS)]
    if failed:
        sys.stdout.write(f"The files of the tests are in {folder}.\n")
        return failed[0]
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if 0 in codes else _NO_TESTS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
