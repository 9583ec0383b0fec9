"""The local launcher: stage runs as processes, as many at once as there are free cores and GPUs.

Workers are forked from a server process that has imported the heavy libraries once. A stage run on
several devices is started as a command, because Lightning starts its other ranks by running the
command again. A stage run that can't be distributed takes one GPU, and several run side by side.
"""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from configuration.trainer import TrainerConfig
from core.errors import PreemptedError
from core.process.interrupts import end_children, without_interrupts
from core.process.log import get_logger
from core.process.stop import PARENT, StopFlag
from pipeline.graph import Graph, StageNode
from pipeline.launchers import forkserver
from pipeline.launchers.base import PREEMPTED_MESSAGE, OnTick, StageAttempt, choose_num_threads
from pipeline.launchers.devices import NO_GPUS, GpuPool
from pipeline.launchers.environment import RANK_VARIABLES, allocator_settings
from pipeline.store.states import State
from pipeline.store.store import StageFolder, Store

_LOG = get_logger("launch")
_POLL_S = 0.25
_STOP_TIMEOUT_S = 120.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalLauncher:
    """Runs the unfinished stage runs of a graph on this node."""

    store: Store
    graph: Graph
    trainer: TrainerConfig
    num_cores: int
    """Cores to use; a stage run takes one of them or all."""
    flag: StopFlag
    pool: GpuPool = NO_GPUS
    """GPUs; without any, the cores alone limit how many stage runs run at once."""

    def run(self, on_tick: OnTick) -> dict[str, State]:
        """Run until every stage run is done or has failed, and return their final states.

        Raises:
            PreemptedError: If the command was asked to stop; running stages have saved.
        """
        states = self._initial_states()
        running: dict[str, StageProcess] = {}
        try:
            while True:
                if self.flag.is_set:
                    raise PreemptedError(PREEMPTED_MESSAGE)
                self._collect(running, states)
                self._start_ready(running, states)
                on_tick(states)
                if not running and State.WAITING not in states.values():
                    return states
                time.sleep(_POLL_S)
        finally:  # also after an error of this process, such as that of a full disk
            self._stop(running)

    def _attempt(self, node: StageNode) -> StageAttempt:
        return StageAttempt(store=self.store, node=node, trainer=self.trainer)

    def _initial_states(self) -> dict[str, State]:
        states = {}
        for address, node in self.graph.nodes.items():
            attempt = self._attempt(node)
            states[address] = State.DONE if attempt.is_done() else State.WAITING
            attempt.prepare()
        return states

    def _start_ready(self, running: dict[str, "StageProcess"], states: dict[str, State]) -> None:
        for node in by_priority(self._find_ready(states), self.pool.group_size):
            num_threads = choose_num_threads(node.stage, self.num_cores)
            attempt = self._attempt(node)
            if self._count_busy(running) + num_threads > self.num_cores or not attempt.can_start():
                continue
            gpus = ""
            if self.pool.gpus:
                occupied = [process.gpus for process in running.values()]
                assigned = self.pool.assign(node.stage, occupied)
                if assigned is None:
                    return
                gpus = assigned
            attempt.begin(num_threads=num_threads, gpus=gpus)
            as_command = node.stage.is_distributed and self.trainer.devices > 1
            running[node.address] = StageProcess.start(
                attempt.folder, as_command=as_command, gpus=gpus
            )
            states[node.address] = State.RUNNING

    def _find_ready(self, states: dict[str, State]) -> list[StageNode]:
        """Return the waiting stage runs with all inputs; those with a failed input fail."""
        ready = []
        for address, node in self.graph.nodes.items():
            if states[address] is not State.WAITING:
                continue
            attempt = self._attempt(node)
            if attempt.has_failed_input(states):
                states[address] = State.FAILED
            elif attempt.has_all_inputs(states):
                ready.append(node)
        return ready

    def _count_busy(self, running: dict[str, "StageProcess"]) -> int:
        stages = (self.graph.nodes[address].stage for address in running)
        return sum(choose_num_threads(stage, self.num_cores) for stage in stages)

    def _collect(self, running: dict[str, "StageProcess"], states: dict[str, State]) -> None:
        for address in [a for a, process in running.items() if process.exit_code() is not None]:
            exit_code = running.pop(address).exit_code()
            attempt = self._attempt(self.graph.nodes[address])
            log = attempt.folder.path / "log.txt"
            death = f"the process ended with exit code {exit_code}; see {log}"
            # A process that was stopped alone has saved: `resolve` lets it continue.
            states[address] = attempt.resolve(attempt.collect(exit_code, death=death))

    def _stop(self, running: dict[str, "StageProcess"]) -> None:
        """Let the running stages save and wait for their end."""
        for process in running.values():
            process.terminate()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while any(process.exit_code() is None for process in running.values()):
            if time.monotonic() > deadline:
                _LOG.warning(
                    "stage runs that did not stop within %.0f s are killed; they resume from their "
                    "last checkpoint",
                    _STOP_TIMEOUT_S,
                )
                end_children()
                break
            time.sleep(_POLL_S)


def by_priority(ready: Sequence[StageNode], group_size: int) -> list[StageNode]:
    """Return stage runs in the order in which they should start.

    Fewer stage runs with one GPU each than a group has GPUs would leave the others idle, so
    training goes first until there are enough to fill a group; otherwise the order of the graph.
    """
    num_single = sum(not node.stage.is_distributed for node in ready)
    if num_single >= group_size:
        return sorted(ready, key=lambda node: group_size > 1 and node.stage.is_distributed)
    return sorted(ready, key=lambda node: not node.stage.is_distributed)


class StageProcess:
    """The process of a running stage, forked or started as a command."""

    def __init__(self, process: "BaseProcess | subprocess.Popen[bytes]", *, gpus: str = "") -> None:
        self._process = process
        self.gpus = gpus
        """GPUs of the process, as CUDA_VISIBLE_DEVICES."""

    @classmethod
    def start(cls, folder: StageFolder, *, as_command: bool, gpus: str = "") -> "StageProcess":
        """Start the worker of a stage run."""
        if as_command:
            own = {n: value for n, value in os.environ.items() if n not in RANK_VARIABLES}
            return cls(start_command(folder.path, own), gpus=gpus)
        process = forkserver.get_context().Process(target=_run_forked, args=(str(folder.path),))
        process.start()
        return cls(process, gpus=gpus)

    def exit_code(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def terminate(self) -> None:
        """Ask the process to save and stop."""
        self._process.terminate()


def start_command(path: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start the worker of a stage run as a command; its output is appended to log.txt."""
    environment = {**allocator_settings(), **environment, PARENT: str(os.getpid())}
    command = [sys.executable, "-m", "pipeline.launchers.worker", str(path)]
    with (path / "log.txt").open("ab") as log, without_interrupts():
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def _run_forked(path: str) -> None:
    from pipeline.launchers import worker  # already imported by the fork server

    for name in RANK_VARIABLES:  # of a distributed job in whose shell the command was started
        os.environ.pop(name, None)
    worker.run_forked(Path(path))
