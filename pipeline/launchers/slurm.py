"""The SLURM launcher: a job per stage run, waiting for those it needs; state lives in the store.

Jobs go on when the command is closed, and the same command attaches to them again. A job that is
preempted or reaches its time limit saves, asks SLURM to be queued again, and continues; SLURM keeps
what depends on it waiting meanwhile. Submission is submitit's; no scheduler of our own.
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from configuration.trainer import TrainerConfig
from core.config import load_config
from core.errors import ConfigError, IrudimenError, PreemptedError
from core.io.files import atomic_write_text
from core.process.log import get_logger
from core.process.stop import StopFlag
from pipeline.graph import Graph, StageNode
from pipeline.launchers.local import threads_of
from pipeline.launchers.slurm_jobs import SlurmConfig, command, queued_jobs, submit
from pipeline.store.retry_policy import Fault, bad_nodes
from pipeline.store.states import State
from pipeline.store.store import StageFolder, Store, begin_anew, may_start, settle_failure

_LOG = get_logger("slurm")
_FILE = "slurm.json"
_FOLDER = "slurm"
_GPU_NAMES = ("gpu", "cuda")
_START_MIN, _TIMES = 30, 3
"""A plan's hours rest on assumed speeds, and a job that meets its limit only saves and goes on."""
_QUEUED = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "PREEMPTED"}
)
_RUNS = frozenset({"RUNNING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobResources:
    """Estimated resources of the job of one stage run."""

    seconds: float
    """Wall time."""
    host_gib: float
    """Main memory per process, in GiB."""


EstimateResources = Callable[[StageNode], JobResources | None]
"""Estimates the resources of a stage run; None if they can't be estimated."""


def load_slurm(overrides: Sequence[str], trainer: TrainerConfig) -> SlurmConfig:
    """The settings of `--slurm`.

    Raises:
        ConfigError: unknown or wrong settings, or SLURM's commands are not here.
    """
    config = load_config(SlurmConfig, overrides=overrides)
    on_gpus = trainer.accelerator in _GPU_NAMES
    if on_gpus and 0 < config.gpus_per_node < trainer.devices:
        raise ConfigError(
            f"slurm: gpus_per_node is {config.gpus_per_node}, trainer.devices is "
            f"{trainer.devices}; leave gpus_per_node out, or give at least as many"
        )
    if config.gpu and not on_gpus:
        raise ConfigError(f"slurm: gpu={config.gpu}, but trainer.accelerator computes on CPUs")
    if missing := [name for name in ("sbatch", "squeue", "scontrol") if shutil.which(name) is None]:
        raise ConfigError(f"--launcher slurm: no {', '.join(missing)} here; log in to the cluster")
    return config


@dataclasses.dataclass(kw_only=True)
class Job:
    """What is known of a stage run's job."""

    job_id: str
    """Empty: none at the moment."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmLauncher:
    """Runs what is missing of a graph as SLURM jobs."""

    store: Store
    graph: Graph
    trainer: TrainerConfig
    config: SlurmConfig
    flag: StopFlag
    estimate: EstimateResources | None = None
    """Estimates the resources of a job; required for `config.gpu`."""

    def run(self, on_tick: Callable[[dict[str, State]], None]) -> dict[str, State]:
        """Submit what is missing, watch until nothing is left; returns every state.

        Raises:
            PreemptedError: the command was stopped; the jobs go on.
        """
        states = self._initial_states()
        while True:
            queue = queued_jobs()
            for address, node in self.graph.nodes.items():
                if states[address] not in (State.DONE, State.FAILED):
                    states[address] = self._look(node, states, queue)
            on_tick(states)
            if all(state in (State.DONE, State.FAILED) for state in states.values()):
                return states
            self._wait()

    def cancel(self) -> int:
        """Cancel all jobs of the graph that are queued or running; returns how many."""
        queue = queued_jobs()
        ids = [job.job_id for node in self.graph.nodes.values()
               if (job := self._job(node)) is not None and job.job_id in queue]  # fmt: skip
        if ids:
            command("scancel", *ids)
        return len(ids)

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """(stage run, its state, its job, the job's state, its log) of every stage run."""
        queue = queued_jobs()
        for node in self.graph.nodes.values():
            folder, job = self._folder(node), self._job(node)
            state = folder.read_status().state.value
            in_slurm = queue.get(job.job_id, "gone") if job is not None else ""
            title = f"{node.kind} {node.title}"
            yield title, state, job.job_id if job else "", in_slurm, str(folder.path / "log.txt")

    def _wait(self) -> None:
        end = time.monotonic() + self.config.poll_s
        while time.monotonic() < end:
            if self.flag.is_set:
                raise PreemptedError(
                    "the jobs go on in SLURM; the same command attaches to them again, with "
                    "--cancel it cancels them"
                )
            time.sleep(min(0.2, self.config.poll_s))

    def _initial_states(self) -> dict[str, State]:
        states = {}
        queue = queued_jobs()
        for address, node in self.graph.nodes.items():
            folder, job = self._folder(node), self._job(node)
            states[address] = State.WAITING
            if folder.is_done():
                folder.settle()
                states[address] = State.DONE
            elif job is None or job.job_id not in queue:
                folder.write_stage(node.describe(), node.stage)
                if folder.read_status().state is State.FAILED:  # by an earlier command: try again
                    (folder.path / _FILE).unlink(missing_ok=True)
        return states

    def _look(self, node: StageNode, states: dict[str, State], queue: dict[str, str]) -> State:
        """What has become of a stage run; submits it if it is due."""
        job = self._job(node)
        if job is not None and job.job_id in queue:
            return State.RUNNING if queue[job.job_id] in _RUNS else State.WAITING
        if job is not None and job.job_id:
            ended = self._ended(node, job, states)
            if ended is not None:
                return ended
        if not may_start(self._folder(node), retries=self.trainer.retries):
            return State.WAITING
        upstream = [states[other.address] for other in node.inputs.values()]
        if any(state is State.FAILED for state in upstream):
            return State.FAILED
        others = [self._job(other) for other in node.inputs.values()
                  if states[other.address] is not State.DONE]  # fmt: skip
        if any(other is None or other.job_id not in queue for other in others):
            return State.WAITING  # its inputs have to be submitted (again) first
        if sum(state in _QUEUED | _RUNS for state in queue.values()) >= self.config.max_jobs:
            return State.WAITING
        ids = [other.job_id for other in others if other is not None]
        queue[self._submit(node, ids)] = "PENDING"
        return State.WAITING

    def _ended(self, node: StageNode, job: Job, states: dict[str, State]) -> State | None:
        """The state of a stage run whose job is gone; None: submit it again."""
        folder = self._folder(node)
        if folder.is_done():
            folder.settle()
            return State.DONE
        status = folder.read_status()
        could_start = all(states[other.address] is State.DONE for other in node.inputs.values())
        is_silent = status.state not in (State.FAILED, State.INTERRUPTED)
        if could_start and is_silent:  # it had no chance to say why
            told = f"job {job.job_id} ended without a word; see {folder.path}/log.txt and slurm/"
            status.fail(folder.failure(Fault.DIED, told))
            folder.write_status(status)
        self._keep(node, Job(job_id=""))
        if status.state is State.FAILED and not settle_failure(
            folder, retries=self.trainer.retries
        ):
            return State.FAILED
        return None

    def _submit(self, node: StageNode, after: list[str]) -> str:
        from pipeline.launchers.worker import Execution, write_execution  # heavy: torch and friends

        folder = self._folder(node)
        begin_anew(folder)
        root = str(self.store.root.absolute())
        threads = threads_of(node.stage, self.config.cpus_per_task)
        write_execution(folder, Execution(root=root, threads=threads, trainer=self.trainer))
        place: dict[str, Any] = {
            "after": after,
            "num_nodes": self.trainer.num_nodes if node.stage.is_distributed else 1,
        }
        config = self.resources(node)
        careful = self._avoiding_bad_nodes(config)
        try:
            job_id = submit(folder.path, node.title, **place, config=careful)
        except IrudimenError:
            if careful == config:
                raise
            _LOG.warning("%s: nothing is left without the bad nodes, so they are used", node.title)
            job_id = submit(folder.path, node.title, **place, config=config)
        self._keep(node, Job(job_id=job_id))
        return job_id

    def resources(self, node: StageNode) -> SlurmConfig:
        """What its job asks for: the user's settings, and the plan where they are silent."""
        config = self.config
        devices = self.trainer.devices if node.stage.is_distributed else 1
        if self.trainer.accelerator in _GPU_NAMES and not config.gpus_per_node:
            config = dataclasses.replace(config, gpus_per_node=devices)
        estimated = self.estimate(node) if self.estimate is not None else None
        if estimated is None:
            return config
        minutes = math.ceil(_START_MIN + _TIMES * estimated.seconds / 60)
        return dataclasses.replace(
            config,
            time_min=min(config.time_min, minutes),
            mem_gb=config.mem_gb or math.ceil(devices * estimated.host_gib),
        )

    def _avoiding_bad_nodes(self, config: SlurmConfig) -> SlurmConfig:
        """The settings, with machines excluded on which this grid's stage runs keep failing."""
        histories = [self._folder(node).read_status().failures
                     for node in self.graph.nodes.values()]  # fmt: skip
        bad = bad_nodes(histories)
        if not bad:
            return config
        _LOG.warning("stage runs keep failing on %s: its jobs avoid it", ", ".join(bad))
        exclude = ",".join(filter(None, (config.exclude, *bad)))
        return dataclasses.replace(config, exclude=exclude)

    def _folder(self, node: StageNode) -> StageFolder:
        return self.store.folder(node.kind, node.address)

    def _job(self, node: StageNode) -> Job | None:
        path = self._folder(node).path / _FILE
        return Job(job_id=json.loads(path.read_text())["job_id"]) if path.is_file() else None

    def _keep(self, node: StageNode, job: Job) -> None:
        atomic_write_text(self._folder(node).path / _FILE, json.dumps(dataclasses.asdict(job)))


def show_status(console: Console, launcher: SlurmLauncher) -> None:
    """Print the state and the job of every stage run."""
    table = Table()
    for name in ("stage run", "state", "job", "job state", "log"):
        table.add_column(name)
    for row in launcher.rows():
        table.add_row(*row)
    console.print(table)
