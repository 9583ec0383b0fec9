"""Two nodes with two processes each train like one process, even if a node fails."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.store.retry_policy import Fault
from pipeline.store.states import State
from pipeline.store.store import StageFolder
from tests.support import small_world as worlds
from tests.support.servers import slurm_cluster, two_machines
from tests.support.servers.two_machines import Machine, processes_on

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(two_machines.why_not()), reason=two_machines.why_not() or "here"),
]
_HUNG_S = 10
_STOP_LIMIT_S = _HUNG_S + 30
_NUM_STEPS, _CUT_AFTER = 80, 20
_EPOCHS = ("align.visual.captions", "instruct.visual.conversations", "instruct.text_only.chat",
           "instruct.text_only.text")  # fmt: skip
_SETTINGS = ("--set", "align.num_steps=12", f"instruct.num_steps={_NUM_STEPS}",
             "retention.tasks=[]", f"trainer.hung_after_s={_HUNG_S}",
             *(f"{name}.max_epochs=9999" for name in _EPOCHS))  # fmt: skip
_RENDEZVOUS = "join_timeout=60,last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a world with the results of one process in `one`."""
    folder = worlds.build_world(tmp_path_factory.mktemp("world"))
    code, output = worlds.run(folder, worlds.grid_arguments("one", *_SETTINGS))
    assert code == 0, output
    return folder


@pytest.fixture
def pair() -> Iterator[tuple[Machine, Machine]]:
    with two_machines.machines() as found:
        yield found


def _torchrun(machine: Machine, world: Path, root: str, *more: str) -> Any:
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=2",
             "--rdzv-backend=c10d", "--rdzv-id=grid", "--rdzv-endpoint=10.77.0.1:29400",
             f"--rdzv-conf={_RENDEZVOUS}", f"--local-addr={machine.address}", "--max-restarts=5",
             "-m", "experiments.run", *worlds.grid_arguments(root, "--launcher", "torchrun"),
             *_SETTINGS, *more]  # fmt: skip
    environment = worlds.environment() | {
        "GLOO_SOCKET_IFNAME": "eth0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"
    }  # fmt: skip
    return subprocess.Popen(machine.command(*words), cwd=world, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def _losses(world: Path, root: str) -> list[dict[int, float]]:
    return [
        worlds.series(worlds.stage_folder(world / root, kind)) for kind in ("align", "instruct")
    ]


def test_two_nodes_train_like_one_process(world: Path, pair: tuple[Machine, Machine]) -> None:
    """Stage 1 uses DDP; stage 2 is sharded within a node (HSDP)."""
    more = ("instruct.compute.strategy=hsdp",)
    commands = [_torchrun(machine, world, "two", *more) for machine in pair]
    for command in commands:
        output, _ = command.communicate(timeout=240)
        assert command.returncode == 0, output
    for one, two in zip(_losses(world, "one"), _losses(world, "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    for kind in ("align", "instruct"):
        log = (worlds.stage_folder(world / "two", kind) / "log.txt").read_text()
        assert "MEMBER: 4/4" in log


def test_training_continues_when_a_node_is_cut_off(
    world: Path, pair: tuple[Machine, Machine]
) -> None:
    stays, goes = pair
    for kind in ("features", "align"):  # trained on two nodes by the test above
        shutil.copytree(world / "one" / "store" / kind, world / "cut" / "store" / kind)
    commands = [_torchrun(machine, world, "cut") for machine in pair]
    folder = world / "cut" / "store" / "instruct"
    _wait_for(lambda: _last_step(folder) >= _CUT_AFTER, 200)
    goes.cut_off()
    cut = time.monotonic()
    at = _last_step(folder)
    _wait_for(lambda: not _trains(goes), _STOP_LIMIT_S)
    stopped_s = time.monotonic() - cut
    _wait_for(lambda: _status(world).attempts == 2, 180)
    output, _ = commands[0].communicate(timeout=240)
    assert commands[0].returncode == 0, output
    assert stopped_s < _STOP_LIMIT_S
    assert _CUT_AFTER <= at < _NUM_STEPS - 1, "it was cut off in the middle"
    status = _status(world)
    assert status.state is State.DONE
    (failure,) = status.failures
    assert failure.fault in (Fault.PEER, Fault.HUNG)
    assert failure.node == stays.name
    assert failure.step >= 0, "the step to resume at is known"
    log = (worlds.stage_folder(world / "cut", "instruct") / "log.txt").read_text()
    assert "MEMBER: 4/4" in log
    assert "MEMBER: 2/2" in log
    for one, two in zip(_losses(world, "one"), _losses(world, "cut"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.skipif(bool(slurm_cluster.why_not()), reason=slurm_cluster.why_not() or "here")
def test_a_slurm_job_on_two_nodes(
    world: Path, pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    """A job with two processes per node is preempted by a job of higher priority."""
    for kind in ("features", "align"):
        shutil.copytree(world / "one" / "store" / kind, world / "slurm" / "store" / kind)
    with slurm_cluster.cluster(tmp_path, pair) as cluster:
        environment = {"GLOO_SOCKET_IFNAME": "eth0", "SLURM_CONF": cluster["SLURM_CONF"]}
        launch = (
            "--launcher",
            "slurm",
            "--slurm",
            "partition=low",
            "cpus_per_task=2",
            "poll_s=0.5",
        )
        machines = ("trainer.devices=2", "trainer.num_nodes=2", "trainer.hung_after_s=60")
        command = worlds.start(
            world,
            *worlds.grid_arguments("slurm", *launch),
            *_SETTINGS,
            *machines,
            variables=environment,
        )
        _wait_for(lambda: _last_step(world / "slurm" / "store" / "instruct") >= _CUT_AFTER, 240)
        subprocess.run(["sbatch", "-p", "high", "-c", "2", "-o", "/dev/null", "--wrap", "true"],
                       env=cluster, check=True, capture_output=True)  # fmt: skip
        while command.poll() is None:
            for job in _pending(cluster):
                subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"],
                               env=cluster, check=False, capture_output=True)  # fmt: skip
            time.sleep(0.5)
        assert command.returncode == 0, command.communicate()[0]
    folder = worlds.stage_folder(world / "slurm", "instruct")
    status = StageFolder(folder).read_status()
    assert (status.attempts, status.failures) == (2, [])
    assert sorted(status.node.split(",")) == sorted(machine.name for machine in pair)
    assert (folder / "log.txt").read_text().count("MEMBER: 4/4") == 2
    for one, two in zip(_losses(world, "one"), _losses(world, "slurm"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def _pending(environment: dict[str, str]) -> list[str]:
    done = subprocess.run(["squeue", "-h", "-p", "low", "-t", "PENDING", "-o", "%i"],
                          env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    return done.stdout.split()


def _status(world: Path) -> Any:
    return StageFolder(worlds.stage_folder(world / "cut", "instruct")).read_status()


def _last_step(folder: Path) -> int:
    paths = list(folder.glob("*/metrics.jsonl"))
    return max(worlds.series(paths[0].parent), default=-1) if paths else -1


def _trains(machine: Machine) -> list[int]:
    """Return the processes on a node that are ranks of a training."""
    found = []
    for process in processes_on(machine):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"pipeline.launchers.worker" in words:
            found.append(process)
    return found


def _wait_for(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the condition did not hold within {seconds:.0f} s")
        time.sleep(0.2)
