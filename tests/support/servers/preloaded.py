"""Start commands from a process that has already imported the heavy libraries.

A fresh interpreter needs about eight seconds of a core for imports before a command does anything.
The server of this module pays them once per test session and forks a process for every command:
its own process group, environment, folder and output, and the exit code and signals of a real
one. Two processes that a command starts itself are forked, too: Python's fork server and the
further ranks that Lightning starts. `IRUDIMEN_TESTS_FRESH=1` starts fresh interpreters instead.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from core.errors import ConfigError
from core.process.loading import without_collection
from pipeline.code_digest import code_digest
from pipeline.stages.registry import stage_kinds
from tests.support.servers import mlflow_database

REPOSITORY = Path(__file__).resolve().parents[3]
_ADDRESS = "IRUDIMEN_TESTS_PRELOADED"
"""Environment variable of a preloaded command: the socket of its server."""
_PRELOAD = (
    "experiments.run_steps.grid_run",
    "experiments.run_steps.planning",
    "reporting.build",
    "reporting.dry_run.tables",
    "pipeline.launchers.torchrun",
    "pipeline.launchers.worker",
    "benchmarks.elastic.rank",
    "mlflow.store.tracking.sqlalchemy_store",
    "callbacks.checkpoints",
    "pandas",  # by pyarrow, when it makes the first table
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "torch.nn.attention.varlen",  # by the estimate of a plan
)
_OPTIONAL = ("data_prep.prepare.engine", "data_prep.prepare.translation.translators")
"""Left out where their extra is not installed."""


def is_available() -> bool:
    """Return whether commands can be forked here."""
    return hasattr(os, "pidfd_open") and not os.environ.get("IRUDIMEN_TESTS_FRESH")


class PreloadedProcess:
    """A command forked by the server, with the part of `subprocess.Popen` that callers use."""

    def __init__(
        self,
        address: str,
        module: str,
        arguments: Sequence[str],
        *,
        folder: str,
        environment: Mapping[str, str],
        output: int | None = None,
        errors: int | None = None,
        new_session: bool = False,
    ) -> None:
        """Fork a command; its output goes to descriptors, or both streams to the pipe `stdout`."""
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        theirs = output
        if output is None:
            ours, theirs = os.pipe()
            self.stdout = os.fdopen(ours, encoding="utf-8", errors="replace")
        request = {
            "module": module,
            "arguments": list(arguments),
            "folder": folder,
            "environment": {**environment, _ADDRESS: address},
            "new_session": new_session,
        }
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address)
        socket.send_fds(self._connection, [b"x"], [theirs, theirs if errors is None else errors])
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        if output is None:
            os.close(theirs)
        self._replies = self._connection.makefile("r")
        self.pid = int(self._replies.readline())

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        return self._await(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""
        code = self._await(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Read the output to its end and wait for the exit code."""
        if self.stdout is None:
            raise ValueError("the output of this process was not piped")
        end = None if timeout is None else time.monotonic() + timeout
        content = b""
        if not self.stdout.closed:
            descriptor = self.stdout.fileno()
            while True:
                left = None if end is None else max(0.0, end - time.monotonic())
                if not select.select([descriptor], [], [], left)[0]:
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0, output=content)
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    break
                content += chunk
            self.stdout.close()
        self.wait(None if end is None else max(0.0, end - time.monotonic()))
        return content.decode(errors="replace"), None

    def send_signal(self, number: int) -> None:
        """Send a signal to the command unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the command."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM to the command."""
        self.send_signal(signal.SIGTERM)

    def _await(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = int(self._replies.readline())
            self._connection.close()
        return self.returncode


@functools.cache
def _server() -> str:
    """Start the server of this session and return the address of its socket."""
    folder = tempfile.mkdtemp(prefix="irudimen-preloaded-")
    address = f"{folder}/socket"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, address],
        cwd=REPOSITORY,
        env={**environment, "TOKENIZERS_PARALLELISM": "false"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(server.kill)
    if server.stdout is None or server.stdout.readline() != b"ready\n":
        raise RuntimeError("the preload server did not start")
    return address


def start(
    module: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    output: int | None = None,
) -> PreloadedProcess:
    """Start `python -m module arguments` in its own session.

    Both output streams go to a descriptor, or to a pipe.
    """
    return PreloadedProcess(
        _server(),
        module,
        arguments,
        folder=str(folder),
        environment=environment,
        output=output,
        new_session=True,
    )


def _serve(address: str) -> tuple[dict[str, Any], list[int]]:
    """Fork a process for every request; return the request in the forked process."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)  # noqa: T201 - the signal that requests are accepted
        while True:
            ready, _, _ = select.select([0, listener, *running], [], [])
            for descriptor in ready:
                if descriptor == 0:  # the session has ended
                    sys.exit()
                if descriptor is not listener:
                    _report_exit(*running.pop(descriptor), descriptor)
                    continue
                connection, _ = listener.accept()
                _, outputs, _, _ = socket.recv_fds(connection, 1, 2)
                with connection.makefile("r") as lines:
                    request = json.loads(lines.readline())
                pid = os.fork()
                if pid == 0:
                    connection.close()
                    for open_descriptor, (_, other) in running.items():
                        os.close(open_descriptor)
                        other.close()
                    return request, outputs
                for output in outputs:
                    os.close(output)
                connection.sendall(f"{pid}\n".encode())
                running[os.pidfd_open(pid)] = (pid, connection)


def _report_exit(pid: int, connection: socket.socket, descriptor: int) -> None:
    os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # the caller may have ended
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    connection.close()


def _become(request: Mapping[str, Any], outputs: Sequence[int]) -> None:
    """Turn a forked process into the command of a request."""
    if request["new_session"]:
        os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((null, *outputs)):
        os.dup2(source, target)
    for descriptor in {null, *outputs}:
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = request["folder"]
    import numpy as np

    np.random.seed()  # noqa: NPY002 - as in a fresh interpreter, which takes entropy
    mlflow_database.copy_from(Path(request["environment"][_ADDRESS]).with_name("mlflow.db"))
    _fork_instead_of_starting()


def _fork_instead_of_starting() -> None:
    """Fork the interpreters that a command would start, which would import everything again."""
    from lightning.pytorch.strategies.launchers import subprocess_script

    for package in ("multiprocessing", "multiprocess"):  # the second is that of datatrove
        with contextlib.suppress(ImportError):
            util = importlib.import_module(f"{package}.util")
            start_fresh = util.spawnv_passfds
            util.spawnv_passfds = functools.partial(_fork_server, start_fresh)
    subprocess_script.subprocess = _Subprocess  # type: ignore[attr-defined]


class _Subprocess:
    """The `subprocess` module of Lightning's launcher, which starts further ranks."""

    @staticmethod
    def Popen(  # noqa: N802 - the name it has there
        command: Sequence[str], *, env: Mapping[str, str], cwd: str | None
    ) -> PreloadedProcess:
        """Fork a further rank, with the output of this process."""
        _, _, module, *arguments = command
        return PreloadedProcess(
            os.environ[_ADDRESS],
            module,
            arguments,
            folder=cwd or str(Path.cwd()),
            environment=env,
            output=1,
            errors=2,
        )


def _fork_server(
    start_fresh: Callable[..., int], path: str, arguments: Sequence[str], passed: Sequence[int]
) -> int:
    """Fork Python's fork server from a command; other helpers of it start as usual."""
    code = arguments[-1]
    if ".forkserver import main" not in str(code):
        return start_fresh(path, arguments, passed)
    pid = os.fork()
    if pid:
        return pid
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2 and descriptor not in (null, *passed):
            with contextlib.suppress(OSError):  # replaced: objects that hold it may close it later
                os.dup2(null, descriptor)
    sys.argv = ["-c"]
    status = 1
    try:
        exec(code, {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    finally:
        os._exit(status)


def main() -> None:
    """Serve requests; in a forked process, run its command."""
    with without_collection():
        for name in _PRELOAD:
            importlib.import_module(name)
        for name in _OPTIONAL:
            with contextlib.suppress(ConfigError):
                importlib.import_module(name)
        for stage in stage_kinds().values():
            code_digest(stage)  # cached: every command records it
    request, outputs = _serve(sys.argv[1])
    _become(request, outputs)
    module = request["module"]
    if not hasattr(sys.modules.get(module), "__path__"):
        sys.modules.pop(module, None)  # a command is `__main__`; others import it again
    sys.argv = [module, *request["arguments"]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
