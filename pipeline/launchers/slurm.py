"""The SLURM launcher: one job per stage run, with dependencies; the state lives in the store.

Jobs continue when the command is stopped, and the same command reattaches to them. A job that is
preempted or reaches its time limit saves, requeues itself and resumes; SLURM keeps its dependents
waiting meanwhile. Jobs are submitted with submitit.
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from configuration.trainer import TrainerConfig
from core.config import load_config
from core.errors import ConfigError, IrudimenError, PreemptedError
from core.io.files import atomic_write_text
from core.process.log import get_logger
from core.process.stop import StopFlag
from pipeline.graph import Graph, StageNode
from pipeline.launchers.base import OnTick, StageAttempt, choose_num_threads
from pipeline.launchers.slurm_jobs import (
    QUEUED_STATES,
    RUNNING_STATES,
    SlurmConfig,
    list_jobs,
    run_slurm_command,
    submit,
)
from pipeline.store.notes import read_note
from pipeline.store.retry_policy import find_bad_nodes
from pipeline.store.states import State
from pipeline.store.store import Store

_LOG = get_logger("slurm")
_JOB_FILE = "slurm.json"
_REQUIRED_PROGRAMS = ("sbatch", "squeue", "scontrol")
_STARTUP_MIN = 30
_TIME_MARGIN = 3
"""Estimated times assume GPU speeds. A job that reaches its limit only saves and resumes."""


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
    """Return the settings of `--slurm`.

    Raises:
        ConfigError: If a setting is unknown or invalid, or SLURM is not installed.
    """
    config = load_config(SlurmConfig, overrides=overrides)
    is_on_gpu = trainer.accelerator.is_gpu
    if is_on_gpu and 0 < config.gpus_per_node < trainer.devices:
        raise ConfigError(
            f"slurm: gpus_per_node={config.gpus_per_node} is less than trainer.devices="
            f"{trainer.devices}; omit gpus_per_node or increase it"
        )
    if config.gpu and not is_on_gpu:
        raise ConfigError(
            f"slurm: gpu={config.gpu}, but trainer.accelerator={trainer.accelerator} runs on "
            "CPUs; set trainer.accelerator=gpu or omit gpu"
        )
    if missing := [name for name in _REQUIRED_PROGRAMS if shutil.which(name) is None]:
        raise ConfigError(
            f"--launcher slurm: {', '.join(missing)} not found; run the command on the cluster"
        )
    return config


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmLauncher:
    """Runs the unfinished stage runs of a graph as SLURM jobs."""

    store: Store
    graph: Graph
    trainer: TrainerConfig
    config: SlurmConfig
    flag: StopFlag
    estimate: EstimateResources | None = None
    """Estimates the resources of a job; required for `config.gpu`."""

    def run(self, on_tick: OnTick) -> dict[str, State]:
        """Submit jobs and wait until every stage run is done or has failed; return their states.

        Raises:
            PreemptedError: If the command was stopped; the jobs continue.
        """
        states = self._initial_states()
        while True:
            queue = list_jobs()
            for address, node in self.graph.nodes.items():
                if states[address] not in (State.DONE, State.FAILED):
                    states[address] = self._update(self._attempt(node), states, queue)
            on_tick(states)
            if all(state in (State.DONE, State.FAILED) for state in states.values()):
                return states
            self._wait()

    def cancel(self) -> int:
        """Cancel all queued and running jobs of the graph and return their number."""
        queue = list_jobs()
        job_ids = [
            read_job_id(self._attempt(node).folder.path) for node in self.graph.nodes.values()
        ]
        queued = [job_id for job_id in job_ids if job_id in queue]
        if queued:
            run_slurm_command("scancel", *queued)
        return len(queued)

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Yield the title, the state, the job, the job's state and the log of every stage run."""
        queue = list_jobs()
        for node in self.graph.nodes.values():
            attempt = self._attempt(node)
            job_id = read_job_id(attempt.folder.path)
            job_state = queue.get(job_id, "gone") if job_id else ""
            state = attempt.folder.read_status().state.value
            yield node.title, state, job_id, job_state, str(attempt.folder.path / "log.txt")

    def resources(self, node: StageNode) -> SlurmConfig:
        """Return the settings of a job: the user's, and estimates for those that are not set."""
        config = self.config
        devices = self.trainer.devices if node.stage.is_distributed else 1
        if self.trainer.accelerator.is_gpu and not config.gpus_per_node:
            config = dataclasses.replace(config, gpus_per_node=devices)
        estimated = self.estimate(node) if self.estimate is not None else None
        if estimated is None:
            return config
        minutes = math.ceil(_STARTUP_MIN + _TIME_MARGIN * estimated.seconds / 60)
        return dataclasses.replace(
            config,
            time_min=min(config.time_min, minutes),
            mem_gb=config.mem_gb or math.ceil(devices * estimated.host_gib),
        )

    def _attempt(self, node: StageNode) -> StageAttempt:
        return StageAttempt(store=self.store, node=node, trainer=self.trainer)

    def _wait(self) -> None:
        end = time.monotonic() + self.config.poll_s
        while time.monotonic() < end:
            if self.flag.is_set:
                raise PreemptedError(
                    "Stopped; the jobs continue in SLURM. Rerun the same command to reattach to "
                    "them, or add --cancel to cancel them."
                )
            time.sleep(min(0.2, self.config.poll_s))

    def _initial_states(self) -> dict[str, State]:
        states = {}
        queue = list_jobs()
        for address, node in self.graph.nodes.items():
            attempt = self._attempt(node)
            states[address] = State.WAITING
            if attempt.is_done():
                states[address] = State.DONE
            elif read_job_id(attempt.folder.path) not in queue:
                attempt.prepare()
                if attempt.folder.read_status().state is State.FAILED:
                    # It failed in an earlier command: this one retries it.
                    (attempt.folder.path / _JOB_FILE).unlink(missing_ok=True)
        return states

    def _update(
        self, attempt: StageAttempt, states: dict[str, State], queue: dict[str, str]
    ) -> State:
        """Return the current state of a stage run, after submitting its job if it is due."""
        job_id = read_job_id(attempt.folder.path)
        if job_id in queue:
            return State.RUNNING if queue[job_id] in RUNNING_STATES else State.WAITING
        if job_id:
            state = self._collect(attempt, job_id, states)
            if state is not State.WAITING:
                return state
        if not attempt.can_start():
            return State.WAITING
        if attempt.has_failed_input(states):
            return State.FAILED
        input_jobs = [
            read_job_id(self._attempt(other).folder.path)
            for other in attempt.node.inputs.values()
            if states[other.address] is not State.DONE
        ]
        if any(input_job not in queue for input_job in input_jobs):
            return State.WAITING  # an input must be submitted first
        num_active = sum(state in QUEUED_STATES | RUNNING_STATES for state in queue.values())
        if num_active < self.config.max_jobs:
            queue[self._submit(attempt, input_jobs)] = "PENDING"
        return State.WAITING

    def _collect(self, attempt: StageAttempt, job_id: str, states: dict[str, State]) -> State:
        """Return the state after a job has left the queue; WAITING if it is submitted again."""
        reported = attempt.folder.read_status().state in (State.FAILED, State.INTERRUPTED)
        has_started = reported or attempt.has_all_inputs(states)
        if not has_started and not attempt.is_done():  # cancelled because an input's job failed
            write_job_id(attempt.folder.path, "")
            return State.WAITING
        path = attempt.folder.path
        death = f"job {job_id} ended without an error message; see {path}/log.txt and {path}/slurm"
        outcome = attempt.collect(None, death=death)
        if outcome is not State.DONE:
            write_job_id(attempt.folder.path, "")
        return attempt.resolve(outcome)

    def _submit(self, attempt: StageAttempt, input_jobs: list[str]) -> str:
        node, path = attempt.node, attempt.folder.path
        attempt.begin(num_threads=choose_num_threads(node.stage, self.config.cpus_per_task))
        num_nodes = self.trainer.num_nodes if node.stage.is_distributed else 1
        config = self.resources(node)
        restricted = self._exclude_bad_nodes(config)
        try:
            job_id = submit(
                path, node.title, after=input_jobs, num_nodes=num_nodes, config=restricted
            )
        except IrudimenError:
            if restricted == config:
                raise
            _LOG.warning("%s: all available nodes are excluded; the job may use them", node.title)
            job_id = submit(path, node.title, after=input_jobs, num_nodes=num_nodes, config=config)
        write_job_id(attempt.folder.path, job_id)
        return job_id

    def _exclude_bad_nodes(self, config: SlurmConfig) -> SlurmConfig:
        """Return the settings without the nodes on which stage runs of this grid keep failing."""
        histories = [
            self._attempt(node).folder.read_status().failures for node in self.graph.nodes.values()
        ]
        bad = find_bad_nodes(histories)
        if not bad:
            return config
        _LOG.warning(
            "stage runs failed repeatedly on %s; new jobs exclude these nodes", ", ".join(bad)
        )
        exclude = ",".join(filter(None, (config.exclude, *bad)))
        return dataclasses.replace(config, exclude=exclude)


def read_job_id(folder: Path) -> str:
    """Return the id of the last job of a stage run; empty if there is none.

    A copied folder has the note of the original, whose job is not its own.
    """
    note = read_note(folder / _JOB_FILE)
    submitted = Path(str(note.get("folder") or folder))
    is_copy = submitted.is_dir() and not submitted.samefile(folder)
    return "" if is_copy else str(note.get("job_id", ""))


def write_job_id(folder: Path, job_id: str) -> None:
    """Note the job of a stage run, and the folder into which it writes."""
    note = {"job_id": job_id, "folder": str(folder.resolve())}
    atomic_write_text(folder / _JOB_FILE, json.dumps(note))


def show_status(console: Console, launcher: SlurmLauncher) -> None:
    """Print the state and the job of every stage run."""
    table = Table()
    for name in ("stage run", "state", "job", "job state", "log"):
        table.add_column(name)
    for row in launcher.rows():
        table.add_row(*row)
    console.print(table)
