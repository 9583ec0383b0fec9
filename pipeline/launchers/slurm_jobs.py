"""SLURM's own commands: what is queued, how a stage run is submitted, what its job does."""

import dataclasses
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from core.errors import ConfigError, IrudimenError
from core.process.log import get_logger
from core.process.stop import EXIT_PREEMPTED
from core.retry import call_with_retries
from pipeline.store.retry_policy import MACHINES

_LOG = get_logger("slurm")
_FOLDER = "slurm"
_MAX_ATTEMPTS = 20
_RETRY_S = 5.0
_FIRST_PORT, _NUM_PORTS = 15_000, 17_000
_AFTERWARDS = [
    "code=$?",
    f"if [ $code -eq {EXIT_PREEMPTED} ]; then",
    '  scontrol requeue "$SLURM_JOB_ID" && sleep 600  # until SLURM ends it here',
    "fi",
    "exit $code",
]
"""A job that was told to stop, also before it could heed a signal, is queued again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """What a job asks of SLURM: `--slurm partition=gpu time_min=600 ...`."""

    partition: str = ""
    time_min: int = 720
    """Time limit of a job, minutes; a stage run that takes longer goes on in the next one."""
    gpu: str = ""
    """Kind of the partition's GPUs, as `--gpu` names it. With it, a job asks for three times what
    the plan expects and half an hour (at most `time_min`): short jobs fit into gaps. And for main
    memory, by the weights."""
    cpus_per_task: int = 2
    mem_gb: int = 0
    """Main memory of a node, GiB; 0: the plan's with `gpu`, else what the partition gives."""
    gpus_per_node: int = 0
    """0: what the plan says, `trainer.devices` for training and one for other stages; none on
    CPUs. A number is asked for by every job (partitions that give whole nodes)."""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    signal_s: int = 120
    """So long before the time limit a job is told to save."""
    max_jobs: int = 100
    """Jobs of this grid in the queue at a time."""
    poll_s: float = 5.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.time_min, self.cpus_per_task, self.max_jobs) < 1:
            raise ConfigError("slurm: time_min, cpus_per_task, max_jobs: >= 1")
        if self.poll_s <= 0:
            raise ConfigError("slurm: poll_s must be above 0")


class _SqueueError(Exception):
    """A failed call of squeue."""


def queued_jobs() -> dict[str, str]:
    """Job id -> state of this user's jobs that wait or run; asks again if SLURM does not answer.

    Raises:
        IrudimenError: it did not answer for long.
    """

    def list_jobs() -> str:
        done = _try("squeue", "--noheader", "--me", "--format=%i %T")
        if done.returncode:
            raise _SqueueError(done.stderr.strip())
        return done.stdout

    try:
        output = call_with_retries(
            list_jobs,
            delays_s=[_RETRY_S] * (_MAX_ATTEMPTS - 1),
            is_transient=lambda error: isinstance(error, _SqueueError),
            on_retry=lambda error, _delay_s: _LOG.warning("squeue: %s", error),
        )
    except _SqueueError as error:
        raise IrudimenError(f"SLURM does not answer: {error}; its jobs continue") from error
    lines = (line.split() for line in output.splitlines())
    return {line[0]: line[1] for line in lines if len(line) > 1}


def submit(
    folder: Path, title: str, *, after: list[str], num_nodes: int, config: SlurmConfig
) -> str:
    """Submit a stage run that starts when the jobs it waits for have succeeded; returns its id.

    Raises:
        IrudimenError: SLURM refuses it, e.g. because no node has what it asks for.
    """
    import submitit  # an extra of its own

    executor = submitit.SlurmExecutor(folder=(folder / _FOLDER).absolute())
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
        job_name=title.replace(" ", "_")[:60],
        time=config.time_min,
        nodes=num_nodes,
        ntasks_per_node=1,  # a stage run starts its further ranks on a machine itself
        cpus_per_task=config.cpus_per_task,
        signal_delay_s=config.signal_s,
        stderr_to_stdout=True,
        teardown=_AFTERWARDS,
        setup=[f"export PYTHONPATH={shlex.quote(path)}"],
        additional_parameters={"requeue": True, "kill-on-invalid-dep": "yes"},
        **{name: value for name, value in optional.items() if value},
    )
    try:
        return str(executor.submit(run_stage, str(folder.absolute())).job_id)
    except submitit.core.utils.FailedJobError as error:
        raise IrudimenError(f"SLURM did not take the job of {title}: {error}") from error


def run_stage(folder: str) -> None:
    """What a job does; the code it ends with tells the script around it (`_AFTERWARDS`)."""
    _join_machines()
    from pipeline.launchers import worker

    code = worker.run_logged(Path(folder))
    if code:
        sys.exit(code)  # what depends on it must not start


def _join_machines() -> None:
    """Tell Lightning which of the job's machines this is, and where the first one is met."""
    if os.environ.get("SLURM_NNODES", "1") == "1":
        os.environ[MACHINES] = os.environ["SLURMD_NODENAME"]
        return
    hosts = _try("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"])
    if hosts.returncode:
        raise IrudimenError(f"scontrol show hostnames: {hosts.stderr.strip()}")
    meeting = int(os.environ["SLURM_JOB_ID"]) + int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    os.environ[MACHINES] = ",".join(hosts.stdout.split())
    os.environ["NODE_RANK"] = os.environ["SLURM_NODEID"]
    os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
    os.environ["MASTER_PORT"] = str(_FIRST_PORT + meeting % _NUM_PORTS)


def command(*arguments: str) -> None:
    """Give a command of SLURM's.

    Raises:
        IrudimenError: it failed.
    """
    done = _try(*arguments)
    if done.returncode:
        raise IrudimenError(f"{' '.join(arguments)}: {done.stderr.strip()}")


def _try(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(arguments, capture_output=True, text=True, check=False)
