"""Several machines without a scheduler: torchrun starts the same command on each, once per rank.

TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
torchrun --nnodes=1:2 --nproc-per-node=4 --max-restarts=20 --rdzv-backend=c10d \
    --rdzv-endpoint=HOST:29400 -m experiments.run --exp ... --launcher torchrun --root SHARED

The ranks go through the graph together, a stage run at a time: every rank trains, rank 0 does the
rest. When a machine is lost, what hangs ends by its watchdog, and torchrun starts the ranks that
are left anew; they go on from the last checkpoint, because the data do not depend on their number.
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
from pipeline.launchers.local import start_command, threads_of
from pipeline.store.states import State
from pipeline.store.store import Store, begin_anew, may_start, settle_failure

_LOG = get_logger("torchrun")
_POLL_S = 0.2
_FOR_EVER = datetime.timedelta(days=30)
"""A stage run of rank 0 alone may take long; lost machines are found by torchrun's own agents."""
_OF_RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
             "GROUP_WORLD_SIZE", "TORCHELASTIC_RUN_ID")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Order:
    """What rank 0 wants of all."""

    kind: str
    address: str
    port: int
    """Where the ranks of this stage run meet."""


def ranks_here(trainer: TrainerConfig) -> TrainerConfig:
    """The settings with the machines and processes that torchrun has started.

    Raises:
        ConfigError: not started by torchrun.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        raise ConfigError(
            "--launcher torchrun: start the command with torchrun on every node "
            "(docs/running/clusters.md)"
        )
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return dataclasses.replace(trainer, devices=here, num_nodes=everywhere // here)


def is_follower() -> bool:
    """Whether another rank of torchrun leads this one."""
    return os.environ.get("RANK", "0") != "0"


class _Ranks:
    """The ranks of the command, and the part of a stage run that this one does."""

    def __init__(self, flag: StopFlag) -> None:
        """Meet the others.

        Raises:
            ConfigError: a second meeting would find what the first one left.
        """
        self._flag = flag
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            raise ConfigError(
                "torchrun keeps the addresses of ranks that are gone when it restarts the others; "
                "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on every machine before torchrun"
            )
        dist.init_process_group("gloo", timeout=_FOR_EVER)

    def tell(self, order: _Order | None) -> _Order | None:
        """Rank 0's order, on every rank; None: that was all."""
        orders: list[Any] = [order]
        dist.broadcast_object_list(orders, src=0)
        told: _Order | None = orders[0]
        return told

    def work(self, store: Store, order: _Order, *, on_tick: Callable[[], None]) -> int:
        """This rank's process of a training; returns its exit code."""
        path = store.folder(order.kind, order.address).path
        # The port of this command's own ranks is taken.
        meeting = {"MASTER_PORT": str(order.port)}
        return _wait(start_command(path, {**os.environ, **meeting}), self._flag, on_tick)


def follow(store: Store, flag: StopFlag) -> int:
    """What every rank but the first does; returns the exit code of the command."""
    ranks = _Ranks(flag)
    while (order := ranks.tell(None)) is not None:
        if code := ranks.work(store, order, on_tick=lambda: None):
            return code
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchrunLauncher:
    """Runs what is missing of a graph on the ranks that torchrun has started; for rank 0."""

    store: Store
    graph: Graph
    trainer: TrainerConfig
    flag: StopFlag
    num_cores: int
    """Cores of this machine."""

    def run(self, on_tick: Callable[[dict[str, State]], None]) -> dict[str, State]:
        """Take the stage runs in order; returns every state.

        Raises:
            PreemptedError: a stop was asked for; what ran has saved.
            SystemExit: ranks are lost or one failed: torchrun starts them anew.
        """
        ranks = _Ranks(self.flag)
        states = dict.fromkeys(self.graph.nodes, State.WAITING)
        for address, node in self.graph.nodes.items():
            states[address] = self._settled(node, states)
            while states[address] is State.WAITING:
                states[address] = State.RUNNING
                states[address] = self._run(node, ranks, lambda: on_tick(states))
            on_tick(states)
        ranks.tell(None)
        return states

    def _settled(self, node: StageNode, states: dict[str, State]) -> State:
        """The state of a stage run before this command has done anything about it."""
        folder = self.store.folder(node.kind, node.address)
        if folder.is_done():
            folder.settle()
            return State.DONE
        if any(states[other.address] is State.FAILED for other in node.inputs.values()):
            return State.FAILED
        folder.write_stage(node.describe(), node.stage)
        status = folder.read_status()
        if status.state is not State.FAILED or not status.failures:
            return State.WAITING
        is_first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if status.failures[-1].final:
            return State.WAITING if is_first else State.FAILED
        return State.WAITING if self._goes_on(node) else State.FAILED

    def _goes_on(self, node: StageNode) -> bool:
        return settle_failure(
            self.store.folder(node.kind, node.address), retries=self.trainer.retries
        )

    def _run(self, node: StageNode, ranks: _Ranks, on_tick: Callable[[], None]) -> State:
        from pipeline.launchers.worker import Execution, write_execution  # heavy: torch and friends

        folder = self.store.folder(node.kind, node.address)
        while not may_start(folder, retries=self.trainer.retries):
            _stop_if(self.flag)
            time.sleep(_POLL_S)
        begin_anew(folder)
        threads, root = threads_of(node.stage, self.num_cores), str(self.store.root.absolute())
        write_execution(folder, Execution(root=root, threads=threads, trainer=self.trainer))
        if node.stage.is_distributed:
            order = _Order(node.kind, node.address, _free_port())
            ranks.tell(order)
            code = ranks.work(self.store, order, on_tick=on_tick)
        else:
            alone = {name: value for name, value in os.environ.items() if name not in _OF_RANKS}
            code = _wait(start_command(folder.path, alone), self.flag, on_tick)
        if code == EXIT_PREEMPTED:
            raise PreemptedError("stopped on request; the same command continues where it stopped")
        if code and node.stage.is_distributed:
            _LOG.error("%s ended with code %d on rank 0; see %s/log.txt",
                       node.title, code, folder.path)  # fmt: skip
            sys.exit(1)  # the other ranks may be gone: only torchrun knows
        if code:
            return State.WAITING if self._goes_on(node) else State.FAILED
        folder.settle()
        return State.DONE


def _wait(process: "subprocess.Popen[bytes]", flag: StopFlag, on_tick: Callable[[], None]) -> int:
    """The exit code of a process that is told to stop when this one is."""
    is_told = False
    while (code := process.poll()) is None:
        if flag.is_set and not is_told:
            process.terminate()
            is_told = True
        on_tick()
        time.sleep(_POLL_S)
    return code


def _stop_if(flag: StopFlag) -> None:
    if flag.is_set:
        raise PreemptedError("stopped on request; the same command continues where it stopped")


def _free_port() -> int:
    """Rank 0's machine is where torchrun's first worker is, so the port is free where it counts."""
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
        return port
