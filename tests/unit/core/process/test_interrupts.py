"""Ctrl-C in a command: one line, exit status 130, no traceback and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from core.process import interrupts

_COMMAND = """
from core.process.command import catch_user_errors

import atexit, multiprocessing, subprocess, sys, time
from core.errors import ConfigError
from core.process.interrupts import ending_at_once
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor


def say(text):
    print(text, flush=True)
    for _ in range(600):  # one long sleep ignores a signal that arrives just before it
        time.sleep(0.1)


class SlowError(ConfigError):
    def __str__(self):
        say("ready")


class Careless:
    def __del__(self):
        say("ready")


@catch_user_errors
def main():
    phase = sys.argv[1]
    if phase == "working":
        say("ready")
    elif phase == "cleaning":
        try:
            say("ready")
        finally:
            say("cleaning")
    elif phase == "processes":
        subprocess.Popen(["sleep", "60"])
        with ProcessPoolExecutor(2) as pool:
            for _ in range(8):
                pool.submit(time.sleep, 60)
            say("ready")
    elif phase == "pool":
        with ending_at_once(), multiprocessing.Pool(2) as pool:
            pool.apply_async(time.sleep, (60,))
            say("ready")
    elif phase == "respawning":
        context = multiprocessing.get_context("forkserver")
        with ending_at_once(), context.Pool(2, maxtasksperchild=1) as pool:
            done = pool.imap_unordered(abs, range(100000))
            next(done)
            say("ready")
    elif phase == "threads":
        with ThreadPoolExecutor(2) as pool:
            pool.submit(time.sleep, 60)
            say("ready")
    elif phase == "destructor":
        Careless()
    elif phase == "hidden":  # as by a library whose cleanup fails
        try:
            say("ready")
        finally:
            raise ConfigError("half of an object")
    elif phase == "reporting":
        raise SlowError
    elif phase == "leaving":
        atexit.register(say, "ready")
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "importing":
        say("ready")
    sys.exit(main())
"""
_REPOSITORY = Path(__file__).parents[4]


def start(folder: Path, phase: str) -> "subprocess.Popen[str]":
    """Start a command of a package `evaluation` of its own, and wait until it is in the phase."""
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "__init__.py").touch()
    (folder / "evaluation" / "example.py").write_text(_COMMAND)
    process = subprocess.Popen(
        [sys.executable, "-m", "evaluation.example", phase],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{_REPOSITORY}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def interrupt_group(process: "subprocess.Popen[str]") -> None:
    """Press Ctrl-C: a terminal sends the signal to the whole group of processes."""
    os.killpg(process.pid, signal.SIGINT)


def check_ended(process: "subprocess.Popen[str]", *, timeout_s: float = 8.0) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    interrupt_group(process)
    _, errors = process.communicate(timeout=timeout_s)
    assert (process.returncode, errors) == (interrupts.EXIT_INTERRUPTED, "stopped by Ctrl-C\n")
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.parametrize(
    "phase",
    ["importing", "working", "processes", "pool", "destructor", "hidden", "reporting", "leaving"],
)
def test_ctrl_c_ends_a_command_with_one_line(tmp_path: Path, phase: str) -> None:
    # A pool whose worker was killed while it held a lock waits until the cleanup is ended.
    check_ended(start(tmp_path, phase), timeout_s=20 if phase == "processes" else 8)


def test_a_second_ctrl_c_does_not_wait_for_the_cleanup(tmp_path: Path) -> None:
    process = start(tmp_path, "cleaning")
    interrupt_group(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaning\n"
    check_ended(process)


@pytest.mark.parametrize("phase", ["working", "pool"])
def test_a_second_ctrl_c_while_the_first_is_handled(tmp_path: Path, phase: str) -> None:
    """Near the end of the work of a pool, the handler's import of psutil was interrupted."""
    process = start(tmp_path, phase)
    interrupt_group(process)
    time.sleep(0.005)
    check_ended(process)


def test_a_stop_is_reported_once(capfd: pytest.CaptureFixture[str]) -> None:
    """A signal between the report and the exit of the process used to report it again."""
    interrupts.begin_work()
    interrupts.report_stop(signal.SIGINT)
    interrupts.report_stop(signal.SIGINT)
    assert capfd.readouterr().err == "stopped by Ctrl-C\n"


def test_ctrl_c_while_the_library_of_the_handler_is_imported(tmp_path: Path) -> None:
    """The handler used the half of the module that existed, which ended in a traceback."""
    (tmp_path / "psutil.py").write_text(
        "import time\nprint('ready', flush=True)\ntime.sleep(60)\nProcess = None\n"
    )
    check_ended(start(tmp_path, "pool"))


@pytest.mark.slow
def test_a_cleanup_that_hangs_is_ended(tmp_path: Path) -> None:
    """A pool of threads waits for its tasks, such as requests without a reply."""
    began = time.monotonic()
    check_ended(start(tmp_path, "threads"), timeout_s=20)
    assert time.monotonic() - began > 5


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(4))
def test_no_process_survives_that_was_starting(tmp_path: Path, attempt: int) -> None:
    """The server of a pool forks new workers while the processes of the command are killed."""
    process = start(tmp_path, "respawning")
    time.sleep(0.05 * attempt)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)  # also until the last process closes the pipe
    assert process.returncode == interrupts.EXIT_INTERRUPTED
    assert errors.startswith("stopped by Ctrl-C\n")
    assert "Traceback" not in errors


def test_other_processes_keep_the_default_handler() -> None:
    interrupts.install_handler()
    interrupts.begin_work()
    assert signal.getsignal(signal.SIGINT) is not interrupts.stop_command


def test_a_command_run_inside_of_another_program_does_not_make_it_a_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    name = SimpleNamespace(__spec__=SimpleNamespace(name="experiments.run"))
    try:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "__main__", name)
            interrupts.begin_work()
            assert signal.getsignal(signal.SIGINT) is interrupts.stop_command
        interrupts.begin_work()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        interrupts.end_helpers()  # would end processes that the program has started
    finally:
        signal.signal(signal.SIGINT, before)
