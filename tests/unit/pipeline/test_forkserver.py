"""Stage runs are forked from a server that never receives Ctrl-C and asks for huge pages."""

import os
import subprocess
import sys
from pathlib import Path

_CODE = """
import os
import signal
from pipeline.launchers import forkserver

forkserver._PRELOADED_MODULES.clear()


def show():
    is_blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    print(is_blocked, os.environ.get("GLIBC_TUNABLES"), flush=True)


if __name__ == "__main__":
    process = forkserver.get_context().Process(target=show)
    process.start()
    process.join()
    show()
"""


def _lines(tmp_path: Path, environment: dict[str, str]) -> list[str]:
    (tmp_path / "code.py").write_text(_CODE)
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    found = subprocess.run(
        [sys.executable, str(tmp_path / "code.py")],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return found.stdout.splitlines()


def test_only_the_command_itself_receives_ctrl_c(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    assert _lines(tmp_path, plain) == ["True glibc.malloc.hugetlb=1", "False None"]


def test_a_setting_of_the_user_is_kept(tmp_path: Path) -> None:
    own = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.check=0"}
    assert _lines(tmp_path, own) == ["True glibc.malloc.check=0", "False glibc.malloc.check=0"]
