"""All tests; those that mostly wait (for machines, servers, killed processes) beside the others.

    python tools/run_tests.py [options of pytest]

Two plain pytest processes: what the second one prints is shown when both are done.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence


def main(options: Sequence[str]) -> int:
    """Run both halves; 0 if both passed."""
    command = [sys.executable, "-m", "pytest", *options]
    with tempfile.TemporaryFile() as log:
        waiting = subprocess.Popen([*command, "-m", "waits"], stdout=log, stderr=subprocess.STDOUT)
        try:
            here = subprocess.run([*command, "-m", "not waits"], check=False).returncode
        finally:  # also after Ctrl-C, which both of them have heard
            there = waiting.wait()
            log.seek(0)
            shutil.copyfileobj(log, sys.stdout.buffer)
            sys.stdout.flush()
    return here or there


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
