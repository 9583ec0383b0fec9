"""The local launcher: stage runs as processes, as many at once as there are cores for.

Workers are forked from a server process that has imported the heavy libraries once; a stage run
on several devices is started as a command, because Lightning starts its further ranks by running
the command again.
"""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from configuration.trainer import TrainerConfig
from core.errors import PreemptedError
from core.process.log import get_logger
from core.process.stop import EXIT_PREEMPTED, PARENT, StopFlag
from pipeline.graph import Graph, StageNode
from pipeline.launchers import forkserver as forks
from pipeline.launchers.devices import NO_GPUS, GpuSlots
from pipeline.stages.base import Stage
from pipeline.store.retry_policy import Fault
from pipeline.store.states import State
from pipeline.store.store import StageFolder, Store, begin_anew, may_start, settle_failure

_LOG = get_logger("launch")
_POLL_S = 0.25
_GRACE_S = 120.0


def threads_of(stage: Stage, cores: int) -> int:
    """Threads of a stage run: all cores for images, which are independent; else one.

    Fixed by the kind, because sums depend on the number of threads in their last bits and a
    resumed run must equal an uninterrupted one. One, because models of this size lose more
    at barriers than they win; several stage runs fill the cores instead.
    """
    return cores if stage.uses_all_cores else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalLauncher:
    """Runs what is missing of a graph on this machine."""

    store: Store
    graph: Graph
    trainer: TrainerConfig
    num_cores: int
    """Cores to use; a stage run takes one of them or all."""
    flag: StopFlag
    slots: GpuSlots = NO_GPUS
    """Places on GPUs; without any, cores alone limit how many run at once."""

    def run(self, on_tick: Callable[[dict[str, State]], None]) -> dict[str, State]:
        """Run stage runs in order until all are done or can't be; returns every state.

        Raises:
            PreemptedError: a stop was asked for; running stages have saved.
        """
        states = self._initial_states()
        running: dict[str, _Process] = {}
        while True:
            if self.flag.is_set:
                self._stop(running)
            self._collect(running, states)
            self._start_ready(running, states)
            on_tick(states)
            if not running and State.WAITING not in states.values():
                return states
            time.sleep(_POLL_S)

    def _initial_states(self) -> dict[str, State]:
        states = {}
        for address, node in self.graph.nodes.items():
            folder = self.store.folder(node.kind, address)
            states[address] = State.WAITING
            if folder.is_done():
                folder.settle()
                states[address] = State.DONE
            folder.write_stage(node.describe(), node.stage)
        return states

    def _start_ready(self, running: dict[str, "_Process"], states: dict[str, State]) -> None:
        for address, node in self.graph.nodes.items():
            if states[address] is not State.WAITING:
                continue
            upstream = [states[other.address] for other in node.inputs.values()]
            if any(state is State.FAILED for state in upstream):
                states[address] = State.FAILED
                continue
            busy = sum(
                threads_of(self.graph.nodes[other].stage, self.num_cores) for other in running
            )
            fits = busy + threads_of(node.stage, self.num_cores) <= self.num_cores
            place = self.slots.free([process.place for process in running.values()])
            if self.slots.places and place is None:
                return
            if (
                fits
                and all(state is State.DONE for state in upstream)
                and may_start(self.store.folder(node.kind, address), retries=self.trainer.retries)
            ):
                running[address] = self._start(node, place or "")
                states[address] = State.RUNNING

    def _start(self, node: StageNode, place: str) -> "_Process":
        from pipeline.launchers.worker import Execution, write_execution  # heavy: torch and friends

        folder = self.store.folder(node.kind, node.address)
        begin_anew(folder)
        threads, root = threads_of(node.stage, self.num_cores), str(self.store.root)
        write_execution(
            folder, Execution(root=root, threads=threads, trainer=self.trainer, gpus=place)
        )
        return _Process.start(folder, as_command=self.trainer.devices > 1, place=place)

    def _collect(self, running: dict[str, "_Process"], states: dict[str, State]) -> None:
        for address in [a for a, process in running.items() if process.exit_code() is not None]:
            code = running.pop(address).exit_code()
            node = self.graph.nodes[address]
            folder = self.store.folder(node.kind, address)
            state = _state_after(folder, code)
            # Stopped alone, it has saved and simply goes on; so does what may be tried again.
            again = state is State.INTERRUPTED or (
                state is State.FAILED and settle_failure(folder, retries=self.trainer.retries)
            )
            states[address] = State.WAITING if again else state

    def _stop(self, running: dict[str, "_Process"]) -> None:
        for process in running.values():
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        while any(process.exit_code() is None for process in running.values()):
            if time.monotonic() > deadline:
                _LOG.warning("some stage runs did not stop within %.0f s", _GRACE_S)
                break
            time.sleep(_POLL_S)
        raise PreemptedError("stopped on request; the same command continues where it stopped")


def _state_after(folder: StageFolder, code: int | None) -> State:
    if folder.is_done():
        folder.settle()
        return State.DONE
    status = folder.read_status()
    if code == EXIT_PREEMPTED:
        return State.INTERRUPTED
    if status.state is not State.FAILED:  # it had no chance to say why
        told = f"the process ended with code {code}; see {folder.path / 'log.txt'}"
        status.fail(folder.failure(Fault.DIED, told))
        folder.write_status(status)
    return State.FAILED


class _Process:
    """A stage run in flight, forked or started as a command."""

    def __init__(
        self, process: "BaseProcess | subprocess.Popen[bytes]", *, place: str = ""
    ) -> None:
        self._process = process
        self.place = place
        """The GPUs it was given."""

    @classmethod
    def start(cls, folder: StageFolder, *, as_command: bool, place: str = "") -> "_Process":
        if as_command:
            return cls(start_command(folder.path, dict(os.environ)), place=place)
        process = forks.context().Process(target=_forked_main, args=(str(folder.path),))
        process.start()
        return cls(process, place=place)

    def exit_code(self) -> int | None:
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


def _forked_main(path: str) -> None:
    from pipeline.launchers import worker  # already imported by the fork server

    worker.run_forked(Path(path))


def start_command(path: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a stage run as a command, its words in its log."""
    environment = {**environment, PARENT: str(os.getpid())}
    command = [sys.executable, "-m", "pipeline.launchers.worker", str(path)]
    with (path / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)
