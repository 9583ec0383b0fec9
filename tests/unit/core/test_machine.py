"""Limits of the machine: cores of a container or job, and the folder of sockets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.process import machine


def test_cores_follow_the_affinity_of_the_process() -> None:
    code = "import os; os.sched_setaffinity(0, {0}); from core.process.machine import *; "
    code += "print(available_cores())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("quota", "allocated", "expected"),
    [("150000 100000", "", 1), ("max 100000", "3", 3), ("400000 100000", "6", 4), ("?", "", 8)],
)
def test_cores_follow_the_quota_and_the_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, allocated: str, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(machine, "_CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", allocated)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    assert machine.available_cores() == expected


def test_a_forked_process_starts_with_a_long_temporary_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    code = (
        "from core.process.machine import use_short_socket_folder as use; use(); "
        "import multiprocessing as m, tempfile; c = m.get_context('forkserver'); "
        "q = c.Process(target=print, args=('started',)); q.start(); q.join(); "
        f"assert tempfile.gettempdir() == {str(folder)!r}; raise SystemExit(q.exitcode)"
    )
    environment = {
        **os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[3])
    }  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout.strip()) == (0, "started"), found.stderr
