"""Limits of the machine: cores of a container or job, and the folder of sockets."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.process import machine


def test_cores_follow_the_affinity_of_the_process() -> None:
    code = "import os; os.sched_setaffinity(0, {0}); from core.process.machine import *; "
    code += "print(available_cores())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("quota", "allocated", "expected"),
    [("150000 100000", "", 1), ("max 100000", "3", 3), ("400000 100000", "6", 4), ("?", "", 8)],
)
@pytest.mark.parametrize(
    "where", [("0::/\n", ""), ("0::/a/b\n", "a"), ("0::/outside/the/container\n", ""), ("", "")]
)
def test_cores_follow_the_quota_and_the_allocation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quota: str,
    allocated: str,
    expected: int,
    where: tuple[str, str],
) -> None:
    own, place = where
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "cpu.max").write_text(quota)
    _use_cgroups(tmp_path, monkeypatch, own)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", allocated)
    assert machine.available_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("-1", 8)])
def test_cores_follow_the_quota_of_the_first_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    folder = tmp_path / "cpu" / "docker" / "1"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text("100000")
    _use_cgroups(tmp_path, monkeypatch, "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n0::/\n")
    assert machine.available_cores() == expected


def _use_cgroups(folder: Path, monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    (folder / "own").write_text(own or "0::/\n")
    monkeypatch.setattr(machine, "_CGROUPS", folder)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", folder / ("own" if own else "missing"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_usable_temporary_folder_there_is_one_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    with pytest.raises(ConfigError, match=r"No usable temporary directory .*; set TMPDIR"):
        machine.use_short_socket_folder()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "x" * 100)
    monkeypatch.setattr(machine, "_SHORT_FOLDERS", ())
    with pytest.raises(ConfigError, match="set TMPDIR to one of at most 64 bytes"):
        machine.use_short_socket_folder()


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
        **os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[4])
    }  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout.strip()) == (0, "started"), found.stderr


def test_the_limit_of_open_files_is_raised() -> None:
    code = "import resource; from core.process.machine import *; "
    code += "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
    code += "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); raise_open_files_limit(); "
    code += "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_allocator_of_gpus_is_set_unless_the_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    current, older = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"
    for name in (current, older):
        monkeypatch.delenv(name, raising=False)
    machine.prefer_expandable_segments()
    assert os.environ.pop(current) == "expandable_segments:True"
    monkeypatch.setenv(older, "max_split_size_mb:512")
    machine.prefer_expandable_segments()
    assert current not in os.environ
