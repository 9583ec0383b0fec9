"""SLURM's commands: list the jobs in the queue, submit a stage run, and the function of its job."""

import dataclasses
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from core.errors import ConfigError, IrudimenError
from core.process.loading import without_collection
from core.process.log import get_logger
from core.process.stop import EXIT_PREEMPTED
from pipeline.launchers.environment import (
    ClusterVariable,
    SlurmVariable,
    allocator_settings,
)
from pipeline.store.retry_policy import NODES_VARIABLE

QUEUED_STATES = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "PREEMPTED"}
)
"""States of jobs that wait."""
RUNNING_STATES = frozenset({"RUNNING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT"})
"""States of jobs that hold resources."""

_LOG = get_logger("slurm")
_SUBMITIT_FOLDER = "slurm"
_MAX_JOB_NAME = 60
_MAX_QUERIES = 20
_RETRY_S = 5.0
_FIRST_PORT, _NUM_PORTS = 15_000, 17_000
_TEARDOWN = [
    "code=$?",
    f"if [ $code -eq {EXIT_PREEMPTED} ]; then",
    '  scontrol requeue "$SLURM_JOB_ID" && sleep 600  # until SLURM ends the job',
    "fi",
    "exit $code",
]
"""Requeues a job that was asked to stop, even if the signal came before its handler."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """Settings of SLURM jobs: `--slurm partition=gpu time_min=600 ...`."""

    partition: str = ""
    time_min: int = 720
    """Time limit of a job in minutes. A longer stage run saves and resumes in the next job."""
    gpu: str = ""
    """Type of the partition's GPUs, as in `--gpu`. If set, the time limit of a job is three times
    its longest estimated time plus half an hour (at most `time_min`), because short jobs start
    earlier, and its main memory is estimated from the size of the weights."""
    cpus_per_task: int = 2
    mem_gb: int = 0
    """Main memory of a node in GiB; 0 uses the estimate of `gpu` or the partition's default."""
    gpus_per_node: int = 0
    """GPUs of every job, for partitions that allocate whole nodes. 0 requests `trainer.devices` for
    training and one GPU for other stages, and none on CPUs."""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    signal_s: int = 120
    """Seconds before the time limit at which a job is asked to save."""
    max_jobs: int = 100
    """Maximum number of jobs in the queue."""
    poll_s: float = 5.0
    """Interval of queries of the queue, in seconds."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("time_min", "cpus_per_task", "max_jobs"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"slurm: {name} must be at least 1, got {value}")
        if self.poll_s <= 0:
            raise ConfigError(f"slurm: poll_s must be above 0, got {self.poll_s}")


def list_jobs() -> dict[str, str]:
    """Return the state of every queued and running job of this user, by job id.

    Raises:
        IrudimenError: If SLURM does not answer after several attempts.
    """
    for _ in range(_MAX_QUERIES):
        done = _run("squeue", "--noheader", "--me", "--format=%i %T")
        if done.returncode == 0:
            lines = (line.split() for line in done.stdout.splitlines())
            return {line[0]: line[1] for line in lines if len(line) > 1}
        _LOG.warning("squeue failed: %s", done.stderr.strip())
        time.sleep(_RETRY_S)
    raise IrudimenError(f"SLURM does not respond: {done.stderr.strip()}; submitted jobs continue")


def submit(
    folder: Path, title: str, *, after: list[str], num_nodes: int, config: SlurmConfig
) -> str:
    """Submit the job of a stage run and return its id.

    Args:
        folder: Folder of the stage run.
        title: Name of the job.
        after: Jobs that must succeed before this one starts.
        num_nodes: Nodes of the job.
        config: Settings of the job.

    Raises:
        IrudimenError: If SLURM rejects the job, for example because no node has its resources.
    """
    import submitit  # of the optional dependency group `slurm`

    executor = submitit.SlurmExecutor(folder=(folder / _SUBMITIT_FOLDER).absolute())
    optional: dict[str, Any] = {
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "constraint": config.constraint,
        "exclude": config.exclude,
        "mem": f"{config.mem_gb}GB" if config.mem_gb else "",
        "gpus_per_node": config.gpus_per_node,
        "dependency": "afterok:" + ":".join(after) if after else "",
    }
    path = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH", ""))))
    executor.update_parameters(
        job_name=title.replace(" ", "_")[:_MAX_JOB_NAME],
        time=config.time_min,
        nodes=num_nodes,
        ntasks_per_node=1,  # a stage run starts the other ranks of a node itself
        cpus_per_task=config.cpus_per_task,
        signal_delay_s=config.signal_s,
        stderr_to_stdout=True,
        teardown=_TEARDOWN,
        setup=[
            f"export {name}={shlex.quote(value)}"
            for name, value in {**allocator_settings(), "PYTHONPATH": path}.items()
        ],
        additional_parameters={"requeue": True, "kill-on-invalid-dep": "yes"},
        **{name: value for name, value in optional.items() if value},
    )
    try:
        return str(executor.submit(run_stage, str(folder.absolute())).job_id)
    except submitit.core.utils.FailedJobError as error:
        raise IrudimenError(f"SLURM rejected the job of {title}: {error}") from error


def run_stage(folder: str) -> None:
    """Run a stage inside its job; the exit code tells `_TEARDOWN` whether to requeue the job."""
    _set_cluster_variables()
    with without_collection():
        from pipeline.launchers import worker

    code = worker.run_logged(Path(folder))
    if code:
        sys.exit(code)  # a failed job keeps its dependents from starting


def _set_cluster_variables() -> None:
    """Set the variables that give Lightning the number of this node and the rendezvous address."""
    if os.environ.get(SlurmVariable.NUM_NODES, "1") == "1":
        os.environ[NODES_VARIABLE] = os.environ[SlurmVariable.NODE_NAME]
        return
    hosts = _run("scontrol", "show", "hostnames", os.environ[SlurmVariable.NODE_LIST])
    if hosts.returncode:
        raise IrudimenError(f"scontrol show hostnames: {hosts.stderr.strip()}")
    # Every start of every job uses another port.
    start = int(os.environ[SlurmVariable.JOB_ID])
    start += int(os.environ.get(SlurmVariable.RESTART_COUNT, "0"))
    os.environ[NODES_VARIABLE] = ",".join(hosts.stdout.split())
    os.environ[ClusterVariable.NODE_RANK] = os.environ[SlurmVariable.NODE_INDEX]
    os.environ[ClusterVariable.MASTER_ADDR] = hosts.stdout.split()[0]
    os.environ[ClusterVariable.MASTER_PORT] = str(_FIRST_PORT + start % _NUM_PORTS)


def run_slurm_command(*arguments: str) -> None:
    """Run a command of SLURM.

    Raises:
        IrudimenError: If the command fails.
    """
    done = _run(*arguments)
    if done.returncode:
        raise IrudimenError(f"{' '.join(arguments)}: {done.stderr.strip()}")


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(arguments, capture_output=True, text=True, check=False)
