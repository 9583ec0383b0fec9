"""All tests; those that mostly wait (for machines, servers, killed processes) beside the others.

    python tools/run_tests.py [options of pytest]

Two plain pytest processes: what the second one prints is shown when both are done.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def main(options: Sequence[str]) -> int:
    """Run both halves; 0 if both passed."""
    command = [sys.executable, "-m", "pytest", *options]
    # A folder of its own: daemons of other users must reach theirs, and pytest closes the parent
    # of the usual ones to others whenever it starts.
    folder = Path(tempfile.mkdtemp(prefix="irudimen-tests-"))
    waits = [*command, "-m", "waits", f"--basetemp={folder / 'waits'}"]
    with tempfile.TemporaryFile() as log:
        waiting = subprocess.Popen(waits, stdout=log, stderr=subprocess.STDOUT)
        try:
            here = subprocess.run([*command, "-m", "not waits"], check=False).returncode
        finally:  # also after Ctrl-C, which both of them have heard
            there = waiting.wait()
            log.seek(0)
            shutil.copyfileobj(log, sys.stdout.buffer)
            sys.stdout.flush()
    if there:
        print(f"what its tests wrote is in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return here or there


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
