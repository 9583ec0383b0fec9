"""Stage runs are forked from a server that never receives Ctrl-C."""

import os
import subprocess
import sys
from pathlib import Path

_CODE = """
import signal
from pipeline.launchers import forkserver

forkserver._PRELOADED_MODULES.clear()


def show():
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)


if __name__ == "__main__":
    process = forkserver.get_context().Process(target=show)
    process.start()
    process.join()
    show()
"""


def test_only_the_command_itself_receives_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(_CODE)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    found = subprocess.run(
        [sys.executable, str(tmp_path / "code.py")],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.split() == ["True", "False"]
