"""A real SLURM cluster on this machine, with one node on loopback or two in network namespaces.

Jobs of the partition `low` are preempted by `high` and requeued after a grace time. The packages
slurm-wlm and munge, and root, are needed.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.servers.two_machines import OUTSIDE, Machine

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "runuser")
_CONF = """\
ClusterName=test
SlurmctldHost={host}({address})
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MpiDefault=none
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,kill_invalid_depend
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=10 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def why_not() -> str:
    """Return why SLURM cannot be started here; empty if it can."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root"


@contextlib.contextmanager
def cluster(folder: Path, machines: Sequence[Machine] = ()) -> Iterator[dict[str, str]]:
    """Start a cluster on this machine or the given ones; yield the environment for its commands."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    for place in (folder, *folder.parents):  # the user of munge needs access to its socket
        with contextlib.suppress(PermissionError):
            place.chmod(place.stat().st_mode | 0o111)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    subprocess.run(["chown", "-R", "munge:munge", str(folder / "munge")], check=True)
    (folder / "munge").chmod(0o711)
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log",
             "seed-file": "seed"}  # fmt: skip
    options = [f"--{name}={folder}/munge/{file}" for name, file in files.items()]
    subprocess.run(["runuser", "-u", "munge", "--", "munged", *options], check=True)
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    places = {machine.name: machine.address for machine in machines} or {host: "127.0.0.1"}
    nodes = "\n".join(f"NodeName={name} NodeAddr={address} CPUs=2 RealMemory=4000 State=UNKNOWN"
                      for name, address in places.items())  # fmt: skip
    address = OUTSIDE if machines else "127.0.0.1"
    text = _CONF.format(folder=folder, host=host, address=address, ports=_free_ports(), nodes=nodes)
    conf.write_text(text)
    for name in places:
        (folder / "spool" / name).mkdir()
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    starts = [["slurmctld", "-f", str(conf)]]
    slurmd = ["slurmd", "-f", str(conf)]
    starts += [machine.command(*slurmd) for machine in machines] or [slurmd]
    for start in starts:
        subprocess.run(start, env=environment, check=True)
    try:
        _wait_for_node(environment)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, check=False)
        _wait_for_empty_queue(environment)
        pids = [*folder.glob("slurmd-*.pid"), folder / "slurmctld.pid", folder / "munge/pid"]
        for path in pids:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)


def _wait_for_empty_queue(environment: dict[str, str]) -> None:
    """Let cancelled jobs end: steps that outlive the controller stay forever."""
    for _ in range(60):
        queued = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, check=False)
        if not queued.stdout.strip():
            return
        time.sleep(0.5)


def _free_ports() -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_for_node(environment: dict[str, str]) -> None:
    for _ in range(60):
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True,
                              text=True, check=False).stdout  # fmt: skip
        if set(told.split()) == {"idle"}:
            return
        time.sleep(0.5)
    raise RuntimeError(f"the node did not start: {told}")
