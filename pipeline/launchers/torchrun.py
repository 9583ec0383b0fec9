"""The torchrun launcher: several nodes without a scheduler.

torchrun starts the same command on every node, once per rank:

TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
torchrun --nnodes=1:2 --nproc-per-node=4 --max-restarts=20 --rdzv-backend=c10d \
    --rdzv-endpoint=HOST:29400 -m experiments.run --exp ... --launcher torchrun --root SHARED

The ranks execute the graph together. All of them take part in a training; stage runs that can't be
distributed run side by side, one on each rank. When a node is lost, the watchdogs end the processes
that hang, and torchrun restarts the remaining ranks. They resume from the last checkpoint, because
the data does not depend on the number of ranks.
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
from pipeline.launchers.devices import visible_gpus
from pipeline.launchers.environment import (
    CUDA_VISIBLE_DEVICES,
    DISTRIBUTED_VARIABLES,
    ClusterVariable,
    TorchrunVariable,
)
from pipeline.launchers.local import by_priority, start_command
from pipeline.store.states import State
from pipeline.store.store import Store

_LOG = get_logger("torchrun")
_POLL_S = 0.2
_COMMAND_TIMEOUT = datetime.timedelta(days=30)
"""Maximum duration of a stage run on rank 0, during which the other ranks wait. torchrun's own
agents detect lost nodes."""


@dataclasses.dataclass(frozen=True)
class _Training:
    """A distributed stage run, in which all ranks take part."""

    kind: str
    address: str
    port: int
    """Port at which the ranks of this stage run meet."""


@dataclasses.dataclass(frozen=True)
class _SideBySide:
    """Stage runs of one process each: the first runs on rank 0, the second on rank 1, ..."""

    runs: tuple[tuple[str, str], ...]
    """Kind and address of every stage run; at most one per rank."""

    def of_rank(self, rank: int) -> tuple[str, str] | None:
        """Return the stage run of a rank, or None if there are fewer."""
        return self.runs[rank] if rank < len(self.runs) else None


_Command = _Training | _SideBySide
"""What rank 0 broadcasts to all ranks."""


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
        if not dist.is_initialized():  # by an earlier graph of the same command
            dist.init_process_group("gloo", timeout=_COMMAND_TIMEOUT)

    def broadcast_command(self, command: _Command | None) -> _Command | None:
        """Return the command of rank 0 on every rank; None ends the loop of the followers."""
        commands: list[Any] = [command]
        dist.broadcast_object_list(commands, src=0)
        received: _Command | None = commands[0]
        return received

    def run_training(self, store: Store, command: _Training, *, on_tick: Callable[[], None]) -> int:
        """Run this rank's process of a distributed stage run and return its exit code."""
        path = store.folder(command.kind, command.address).path
        # The ranks of this command already use torchrun's port.
        environment = {**os.environ, ClusterVariable.MASTER_PORT: str(command.port)}
        return _wait_for(start_command(path, environment), self._flag, on_tick)

    def run_side_by_side(
        self, store: Store, command: _SideBySide, *, on_tick: Callable[[], None]
    ) -> list[int]:
        """Run this rank's stage run, if any, and return the exit codes of all ranks."""
        exit_code, own = 0, command.of_rank(dist.get_rank())
        if own is not None:
            process = start_command(store.folder(*own).path, _single_process_environment())
            exit_code = _wait_for(process, self._flag, on_tick)
        exit_codes: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(exit_codes, exit_code)
        return exit_codes


def follow(store: Store, flag: StopFlag) -> int:
    """Execute the commands of rank 0 on another rank, and return the exit code."""
    ranks = _RankGroup(flag)
    while (command := ranks.broadcast_command(None)) is not None:
        if isinstance(command, _Training):
            if exit_code := ranks.run_training(store, command, on_tick=_do_nothing):
                return exit_code
        elif EXIT_PREEMPTED in ranks.run_side_by_side(store, command, on_tick=_do_nothing):
            return EXIT_PREEMPTED
    return 0


def release_ranks(flag: StopFlag) -> None:
    """End the loop of the other ranks after graphs that kept them."""
    _RankGroup(flag).broadcast_command(None)


def _do_nothing() -> None:
    """Only rank 0 reports the states of the stage runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchrunLauncher:
    """Runs the unfinished stage runs of a graph on the ranks of torchrun; used by rank 0."""

    store: Store
    graph: Graph
    trainer: TrainerConfig
    flag: StopFlag
    num_cores: int
    """Cores of this node."""
    keeps_ranks: bool = False
    """Whether the other ranks wait for another graph; `release_ranks` ends them."""

    def run(self, on_tick: OnTick) -> dict[str, State]:
        """Run the stage runs and return their final states.

        Raises:
            PreemptedError: If the command was asked to stop; the running stages have saved.
            SystemExit: If a rank failed or is lost, so that torchrun restarts all ranks.
        """
        ranks = _RankGroup(self.flag)
        states = dict.fromkeys(self.graph.nodes, State.WAITING)
        for node in self.graph.nodes.values():
            states[node.address] = self._initial_state(self._attempt(node), states)
        while ready := self._find_ready(states):
            self._run_batch(self._choose_batch(ready), ranks, states, lambda: on_tick(states))
            on_tick(states)
        if not self.keeps_ranks:
            ranks.broadcast_command(None)
        return states

    def _attempt(self, node: StageNode) -> StageAttempt:
        return StageAttempt(store=self.store, node=node, trainer=self.trainer)

    def _find_ready(self, states: dict[str, State]) -> list[StageAttempt]:
        """Return the waiting stage runs with all inputs; those with a failed input fail."""
        ready = []
        for address, node in self.graph.nodes.items():
            attempt = self._attempt(node)
            if states[address] is not State.WAITING:
                continue
            if attempt.has_failed_input(states):
                states[address] = State.FAILED
            elif attempt.has_all_inputs(states):
                ready.append(attempt)
        return ready

    def _choose_batch(self, ready: list[StageAttempt]) -> list[StageAttempt]:
        """Return one training, or as many other stage runs as there are ranks.

        Raises:
            PreemptedError: If the command was asked to stop before a failed stage run could retry.
        """
        while not (startable := [attempt for attempt in ready if attempt.can_start()]):
            if self.flag.is_set:
                raise PreemptedError(PREEMPTED_MESSAGE)
            time.sleep(_POLL_S)
        num_ranks = self.trainer.devices * self.trainer.num_nodes
        attempts = {attempt.node.address: attempt for attempt in startable}
        ordered = by_priority([attempt.node for attempt in startable], num_ranks)
        if ordered[0].stage.is_distributed:
            return [attempts[ordered[0].address]]
        single = [node for node in ordered if not node.stage.is_distributed]
        return [attempts[node.address] for node in single[:num_ranks]]

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

    def _run_batch(
        self,
        batch: list[StageAttempt],
        ranks: _RankGroup,
        states: dict[str, State],
        on_tick: Callable[[], None],
    ) -> None:
        for attempt in batch:
            attempt.begin(num_threads=choose_num_threads(attempt.node.stage, self.num_cores))
            states[attempt.node.address] = State.RUNNING
        exit_codes = self._execute([attempt.node for attempt in batch], ranks, on_tick)
        if EXIT_PREEMPTED in exit_codes:
            raise PreemptedError(PREEMPTED_MESSAGE)
        for attempt, exit_code in zip(batch, exit_codes, strict=False):  # idle ranks come last
            node, log = attempt.node, attempt.folder.path / "log.txt"
            if exit_code and node.stage.is_distributed:
                _LOG.error("%s: rank 0 ended with exit code %d; see %s", node.title, exit_code, log)
                sys.exit(1)  # only torchrun knows whether the other ranks are still alive
            death = f"the process ended with exit code {exit_code}; see {log}"
            states[node.address] = attempt.resolve(attempt.collect(exit_code, death=death))

    def _execute(
        self, nodes: list[StageNode], ranks: _RankGroup, on_tick: Callable[[], None]
    ) -> list[int]:
        """Run stage runs on the ranks and return their exit codes; of a training, rank 0's."""
        if nodes[0].stage.is_distributed:
            training = _Training(nodes[0].kind, nodes[0].address, _find_free_port())
            ranks.broadcast_command(training)
            return [ranks.run_training(self.store, training, on_tick=on_tick)]
        side_by_side = _SideBySide(tuple((node.kind, node.address) for node in nodes))
        ranks.broadcast_command(side_by_side)
        return ranks.run_side_by_side(self.store, side_by_side, on_tick=on_tick)


def _single_process_environment() -> dict[str, str]:
    """Return the environment of a stage run that computes on this rank's GPU alone."""
    environment = {
        name: value for name, value in os.environ.items() if name not in DISTRIBUTED_VARIABLES
    }
    local_rank = int(os.environ[TorchrunVariable.LOCAL_RANK])
    if local_rank < len(gpus := visible_gpus()):
        environment[CUDA_VISIBLE_DEVICES] = gpus[local_rank]
    return environment


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
