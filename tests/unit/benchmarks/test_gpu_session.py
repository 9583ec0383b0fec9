"""The one command for a lent card: parts that fail or take too long don't stop the rest."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu_step" / "session.sh"


def session(tmp_path: Path, python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a stand-in for Python that sees what it is asked for."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/bash\n{python}\n")
    stand_in.chmod(0o755)
    variables = {"PYTHON": str(stand_in), "OUT": str(tmp_path / "out"), "SKIP_INSTALL": "1"}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_all_parts_run_and_are_reported(tmp_path: Path) -> None:
    done = session(tmp_path, "exit 0", "--cpu-check")
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("tests", "benchmark", "models", "training"):
        assert f"{part}: ok" in done.stdout


@pytest.mark.parametrize(
    ("module", "part"), [("pytest", "tests"), ("benchmarks.gpu_step", "benchmark")]
)
def test_a_failure_is_named_and_the_rest_goes_on(tmp_path: Path, module: str, part: str) -> None:
    python = f'case "$*" in *"-m {module}"*) exit 3;; esac'
    done = session(tmp_path, python, "--cpu-check")
    assert done.returncode == 1
    assert f"{part}: FAILED (exit code 3)" in done.stdout
    assert "training: ok" in done.stdout


def test_a_part_that_hangs_is_ended_at_its_budget(tmp_path: Path) -> None:
    python = 'case "$*" in *"-m pytest"*) exec sleep 50;; esac'
    done = session(tmp_path, python, "--cpu-check", "--budget", "tests=1")
    assert done.returncode == 1
    assert "tests: FAILED (stopped after 1 s)" in done.stdout
    assert "benchmark: ok" in done.stdout


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    done = session(tmp_path, "exit 0", "--fast")
    assert done.returncode == 2
    assert "unknown option" in done.stderr
