"""The torchrun launcher: several nodes without a scheduler.

torchrun starts the same command on every node, once per rank:

TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
torchrun --nnodes=1:2 --nproc-per-node=4 --max-restarts=20 --rdzv-backend=c10d \
    --rdzv-endpoint=HOST:29400 -m experiments.run --exp ... --launcher torchrun --root SHARED

The ranks execute the graph together, one stage run at a time: every rank takes part in training,
and rank 0 does the rest. When a node is lost, the watchdogs end the processes that hang, and
torchrun restarts the remaining ranks. They resume from the last checkpoint, because the data does
not depend on the number of ranks.
"""

import dataclasses
import datetime
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from configuration.trainer import TrainerConfig
from core.errors import ConfigError, PreemptedError
from core.process.log import get_logger
from core.process.stop import EXIT_PREEMPTED, StopFlag
from pipeline.graph import Graph, StageNode
from pipeline.launchers.base import PREEMPTED_MESSAGE, OnTick, StageAttempt, choose_num_threads
from pipeline.launchers.environment import (
    DISTRIBUTED_VARIABLES,
    ClusterVariable,
    TorchrunVariable,
)
from pipeline.launchers.local import start_command
from pipeline.store.states import State
from pipeline.store.store import Store

_LOG = get_logger("torchrun")
_POLL_S = 0.2
_COMMAND_TIMEOUT = datetime.timedelta(days=30)
"""Maximum duration of a stage run on rank 0, during which the other ranks wait. torchrun's own
agents detect lost nodes."""


@dataclasses.dataclass(frozen=True)
class _Command:
    """A stage run that rank 0 broadcasts to all ranks."""

    kind: str
    address: str
    port: int
    """Port at which the ranks of this stage run meet."""


def ranks_here(trainer: TrainerConfig) -> TrainerConfig:
    """Return the settings with the numbers of nodes and processes that torchrun has started.

    Raises:
        ConfigError: If the command was not started by torchrun.
    """
    if TorchrunVariable.RUN_ID not in os.environ:
        raise ConfigError(
            "--launcher torchrun: start the command with torchrun on every node "
            "(docs/running/clusters.md)"
        )
    num_local = int(os.environ[TorchrunVariable.LOCAL_WORLD_SIZE])
    num_ranks = int(os.environ[TorchrunVariable.WORLD_SIZE])
    return dataclasses.replace(trainer, devices=num_local, num_nodes=num_ranks // num_local)


def is_follower() -> bool:
    """Return whether this process is a torchrun rank other than the first."""
    return os.environ.get(TorchrunVariable.RANK, "0") != "0"


class _RankGroup:
    """The ranks of this command, which exchange the stage runs to execute."""

    def __init__(self, flag: StopFlag) -> None:
        """Join the process group.

        Raises:
            ConfigError: If torchrun shares its store, in which a restart would find old addresses.
        """
        self._flag = flag
        if os.environ.get(TorchrunVariable.USE_AGENT_STORE) == "True":
            raise ConfigError(
                "torchrun would keep the addresses of lost ranks after a restart; set "
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on every node before starting torchrun"
            )
        dist.init_process_group("gloo", timeout=_COMMAND_TIMEOUT)

    def broadcast_command(self, command: _Command | None) -> _Command | None:
        """Return the command of rank 0 on every rank; None ends the loop of the followers."""
        commands: list[Any] = [command]
        dist.broadcast_object_list(commands, src=0)
        received: _Command | None = commands[0]
        return received

    def run_command(self, store: Store, command: _Command, *, on_tick: Callable[[], None]) -> int:
        """Run this rank's process of a stage run and return its exit code."""
        path = store.folder(command.kind, command.address).path
        # The ranks of this command already use torchrun's port.
        environment = {**os.environ, ClusterVariable.MASTER_PORT: str(command.port)}
        return _wait_for(start_command(path, environment), self._flag, on_tick)


def follow(store: Store, flag: StopFlag) -> int:
    """Execute the commands of rank 0 on another rank, and return the exit code."""
    ranks = _RankGroup(flag)
    while (command := ranks.broadcast_command(None)) is not None:
        if exit_code := ranks.run_command(store, command, on_tick=lambda: None):
            return exit_code
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchrunLauncher:
    """Runs the unfinished stage runs of a graph on the ranks of torchrun; used by rank 0."""

    store: Store
    graph: Graph
    trainer: TrainerConfig
    flag: StopFlag
    num_cores: int
    """Cores of this node."""

    def run(self, on_tick: OnTick) -> dict[str, State]:
        """Run the stage runs in order and return their final states.

        Raises:
            PreemptedError: If the command was asked to stop; the running stage has saved.
            SystemExit: If a rank failed or is lost, so that torchrun restarts all ranks.
        """
        ranks = _RankGroup(self.flag)
        states = dict.fromkeys(self.graph.nodes, State.WAITING)
        for address, node in self.graph.nodes.items():
            attempt = StageAttempt(store=self.store, node=node, trainer=self.trainer)
            states[address] = self._initial_state(attempt, states)
            while states[address] is State.WAITING:
                states[address] = State.RUNNING
                states[address] = self._run_attempt(attempt, ranks, lambda: on_tick(states))
            on_tick(states)
        ranks.broadcast_command(None)
        return states

    def _initial_state(self, attempt: StageAttempt, states: dict[str, State]) -> State:
        """Return the state of a stage run before this command executes it."""
        if attempt.is_done():
            return State.DONE
        if attempt.has_failed_input(states):
            return State.FAILED
        attempt.prepare()
        status = attempt.folder.read_status()
        if status.state is not State.FAILED or not status.failures:
            return State.WAITING
        if status.failures[-1].final:
            # A new command retries it; a restart by torchrun within the same command does not.
            is_restart = os.environ.get(TorchrunVariable.RESTART_COUNT, "0") != "0"
            return State.FAILED if is_restart else State.WAITING
        return attempt.resolve(State.FAILED)

    def _run_attempt(
        self, attempt: StageAttempt, ranks: _RankGroup, on_tick: Callable[[], None]
    ) -> State:
        node, folder = attempt.node, attempt.folder
        while not attempt.can_start():
            if self.flag.is_set:
                raise PreemptedError(PREEMPTED_MESSAGE)
            time.sleep(_POLL_S)
        attempt.begin(num_threads=choose_num_threads(node.stage, self.num_cores))
        exit_code = self._execute(node, ranks, on_tick)
        if exit_code == EXIT_PREEMPTED:
            raise PreemptedError(PREEMPTED_MESSAGE)
        log = folder.path / "log.txt"
        if exit_code and node.stage.is_distributed:
            _LOG.error("%s: rank 0 ended with exit code %d; see %s", node.title, exit_code, log)
            sys.exit(1)  # only torchrun knows whether the other ranks are still alive
        death = f"the process ended with exit code {exit_code}; see {log}"
        return attempt.resolve(attempt.collect(exit_code, death=death))

    def _execute(self, node: StageNode, ranks: _RankGroup, on_tick: Callable[[], None]) -> int:
        """Run the process of a stage run, on all ranks or on this one, and return its exit code."""
        if node.stage.is_distributed:
            command = _Command(node.kind, node.address, _find_free_port())
            ranks.broadcast_command(command)
            return ranks.run_command(self.store, command, on_tick=on_tick)
        environment = {
            name: value for name, value in os.environ.items() if name not in DISTRIBUTED_VARIABLES
        }
        path = self.store.folder(node.kind, node.address).path
        return _wait_for(start_command(path, environment), self.flag, on_tick)


def _wait_for(
    process: "subprocess.Popen[bytes]", flag: StopFlag, on_tick: Callable[[], None]
) -> int:
    """Return the exit code of a process, which is terminated once `flag` is set."""
    is_terminated = False
    while (exit_code := process.poll()) is None:
        if flag.is_set and not is_terminated:
            process.terminate()
            is_terminated = True
        on_tick()
        time.sleep(_POLL_S)
    return exit_code


def _find_free_port() -> int:
    """Return a free port of this node, on which rank 0 of the stage run will listen."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
