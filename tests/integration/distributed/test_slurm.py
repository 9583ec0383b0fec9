"""A grid on a real SLURM ends with identical results although jobs are preempted and killed."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from core.io.jsonl import read_jsonl
from core.process.stop import EXIT_PREEMPTED
from pipeline.launchers.slurm import SlurmConfig, load_slurm
from tests.support import small_world as worlds
from tests.support.servers import slurm_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.why_not()), reason=slurm_cluster.why_not() or "here"),
]
_PREEMPTIONS = int(os.environ.get("IRUDIMEN_PREEMPTIONS", "8"))
_MOST_STEPS = 60
"""Steps between two preemptions; those of all preemptions are a sixth of the grid's steps."""
_OFTEN = ("align.visual.captions", "instruct.visual.conversations", "instruct.text_only.chat",
          "instruct.text_only.text")  # fmt: skip
_STEPS = 1600 * _PREEMPTIONS // 12
_LONG = ("--set", f"align.num_steps={_STEPS}", f"instruct.num_steps={_STEPS}",
         *(f"{name}.max_epochs=9999" for name in _OFTEN),
         "trainer.checkpoint_every_n_steps=60", "trainer.log_every_n_steps=10")  # fmt: skip
_CELLS = ("--only", "share40_txt", "share0_txt")
_SLURM = ("--launcher", "slurm", "--slurm", "partition=low", "cpus_per_task=1", "time_min=60",
          "poll_s=0.5")  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.build_world(tmp_path_factory.mktemp("world"))


def _start(world: Path, root: str, environment: dict[str, str], *more: str) -> worlds.Process:
    """Start the command; its jobs are fresh interpreters, as on any cluster."""
    grid = ("--exp", "mix_ablation", "--profile", worlds.PROFILE, *_CELLS, "--root", root, *_LONG)
    variables = {"SLURM_CONF": environment["SLURM_CONF"]}
    return worlds.start(world, *grid, *more, variables=variables)


def _slurm(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    return done.stdout


def _results(root: Path) -> dict[str, dict[str, str]]:
    """Return the hashes of the result files of every training stage."""
    found = {}
    for path in sorted((root / "store").glob("*/*/result/complete.json")):
        kind = path.parents[2].name
        if kind in ("align", "instruct"):
            found[f"{kind}/{path.parents[1].name}"] = json.loads(path.read_text())["files"]
    return found


def _runs(root: Path) -> Counter[str]:
    """Return the number of MLflow runs of every stage run."""
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments)
    return Counter(run.data.tags.get("address") or run.data.tags.get("irudimen.address", "")
                   for run in runs)  # fmt: skip


class _Trouble:
    """Preempts and kills jobs, and starts requeued ones at once instead of after two minutes."""

    def __init__(self, environment: dict[str, str], root: Path) -> None:
        self.environment, self.root, self.chance = environment, root, random.Random(3)
        self.preempted = self.killed = 0

    def jobs(self, state: str) -> list[str]:
        output = _slurm(self.environment, "squeue", "-h", "-p", "low", "-t", state, "-o", "%i")
        return output.split()

    def tick(self) -> None:
        time.sleep(0.3)
        for job in self.jobs("PENDING"):
            _slurm(self.environment, "scontrol", "update", f"jobid={job}", "starttime=now")
        running = self.jobs("RUNNING")
        if not running:
            return
        self._let_work()
        training = self._training()
        for pid in training:  # on a fast node many steps pass until SLURM schedules a new job
            os.kill(pid, signal.SIGSTOP)
        try:
            self._disturb(running, training)
        finally:
            for pid in training:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _disturb(self, running: list[str], training: list[int]) -> None:
        if self.preempted >= _PREEMPTIONS // 2 and not self.killed:
            self.killed += self._kill(training)
        elif self.preempted < _PREEMPTIONS:
            _slurm(self.environment, "sbatch", "-p", "high", "-c", "2", "-o", "/dev/null",
                   "--wrap", "sleep 0.1")  # fmt: skip
            self._count(running)

    def _let_work(self) -> None:
        """Wait some seconds or some steps, so that much is left to preempt on any machine."""
        if self.chance.random() < 1 / 2:
            time.sleep(self.chance.uniform(0.2, 4.0))
            return
        goal = self._steps() + self.chance.randrange(_MOST_STEPS)
        end = time.monotonic() + 30
        while self._steps() <= goal and self.jobs("RUNNING") and time.monotonic() < end:
            time.sleep(0.1)

    def _steps(self) -> int:
        """Return the number of steps that all training stages have logged."""
        found = [lines[-1]["step"] for path in self.root.glob("store/*/*/metrics.jsonl")
                 if (lines := read_jsonl(path))]  # fmt: skip
        return sum(found)

    def _count(self, running: list[str]) -> None:
        """Wait until the running jobs are requeued or finished."""
        end = time.monotonic() + 40
        while time.monotonic() < end:
            if not set(running) & set(self.jobs("RUNNING,COMPLETING")):
                break
            time.sleep(0.3)
        self.preempted += len(set(running) & set(self.jobs("PENDING")))

    def _kill(self, training: list[int]) -> int:
        """Kill a running stage with SIGKILL."""
        for pid in training[:1]:
            os.kill(pid, signal.SIGKILL)
        return len(training[:1])

    def _training(self) -> list[int]:
        """Return the processes of running stages."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                is_ours = any(word.startswith(os.fsencode(self.root)) for word in words)
                if is_ours and b"submitit.core._submit" in words and b"-u" in words[:3]:
                    found.append(int(path.parent.name))
        return found


@pytest.mark.timeout(1800)
def test_a_preempted_grid_ends_with_the_results_of_an_undisturbed_one(
    world: Path, environment: dict[str, str]
) -> None:
    calm = _start(world, "calm", environment)
    output, _ = calm.communicate(timeout=600)
    assert calm.returncode == 0, output
    trouble = _Trouble(environment, world / "stormy")
    command = _start(world, "stormy", environment, *_SLURM)
    closed, begin = 0, time.monotonic()
    while command.poll() is None and time.monotonic() - begin < 1200:
        trouble.tick()
        if closed < 2 and trouble.preempted >= (closed + 1) * _PREEMPTIONS // 3:
            command.send_signal(signal.SIGTERM)
            output, _ = command.communicate(timeout=60)
            assert command.returncode == EXIT_PREEMPTED, output
            assert "the jobs continue in SLURM" in " ".join(output.split())
            closed += 1
            command = _start(world, "stormy", environment, *_SLURM)
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 0, output
    assert trouble.preempted >= _PREEMPTIONS
    assert (trouble.killed, closed) == (1, 2)
    calm_results, stormy_results = (_results(world / name) for name in ("calm", "stormy"))
    assert len(calm_results) == 3  # one alignment, two cells
    assert stormy_results == calm_results
    assert _runs(world / "stormy") == _runs(world / "calm")
    assert max(_runs(world / "stormy").values()) == 1
    scores = [json.loads(path.read_text())["metrics"] for name in ("calm", "stormy") for path in
              sorted((world / name / "store").glob("evaluate/*/result/metrics.json"))]  # fmt: skip
    assert scores[:2] == scores[2:]


def test_status_and_cancel(world: Path, environment: dict[str, str]) -> None:
    command = _start(world, "short", environment, *_SLURM)
    for _ in range(200):
        if len(_slurm(environment, "squeue", "-h", "-p", "low").splitlines()) >= 3:
            break
        time.sleep(0.3)
    command.send_signal(signal.SIGTERM)
    command.communicate(timeout=60)
    asked = _start(world, "short", environment, *_SLURM, "--status")
    output, _ = asked.communicate(timeout=120)
    assert asked.returncode == 0, output
    assert "PENDING" in output or "RUNNING" in output
    ended = _start(world, "short", environment, *_SLURM, "--cancel")
    output, _ = ended.communicate(timeout=120)
    assert re.search(r"[1-9]\d* jobs cancelled", output), output
    for _ in range(100):
        if not _slurm(environment, "squeue", "-h", "-p", "low").strip():
            return
        time.sleep(0.3)
    pytest.fail("jobs remain in the queue")


def test_settings_are_checked(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from configuration.trainer import Accelerator, TrainerConfig
    from core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"trainer\.devices=4"):
        load_slurm(["gpus_per_node=1"], TrainerConfig(accelerator=Accelerator.GPU, devices=4))
    with pytest.raises(ConfigError, match="runs on CPUs"):
        load_slurm(["gpu=h100"], TrainerConfig())
    with pytest.raises(ConfigError, match="partitio"):
        load_slurm(["partitio=x"], TrainerConfig())
    with pytest.raises(ConfigError, match="at least 1"):
        SlurmConfig(time_min=0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="sbatch, squeue, scontrol not found"):
        load_slurm([], TrainerConfig())


def test_data_is_prepared_by_job_arrays(tmp_path: Path, environment: dict[str, str]) -> None:
    """The files are byte-identical to those of a local run."""
    turns = (("user", "Galdera {}?"), ("assistant", "Erantzuna {}."))
    rows = [{"c": [{"role": role, "content": text.format(n)} for role, text in turns]}
            for n in range(50)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = str(tmp_path / "rows.jsonl")
    source = {"kind": "chat", "place": place, "licence": "CC0-1.0",
              "columns": {"conversation": "c"},
              "published": {"eu": {"place": place, "alone": True}}}  # fmt: skip
    (tmp_path / "chats.yaml").write_text(json.dumps(source))
    (tmp_path / "mine.yaml").write_text("sources: [chats]\nper_part: 20\n")
    command = ["--language", "eu", "--recipe", str(tmp_path / "mine.yaml"), "--out"]
    slurm = ["--executor", "slurm", "--slurm", "partition=low", "time=00:10:00",
             "mem_per_cpu_gb=1"]  # fmt: skip
    for out, more in (("here", []), ("there", slurm)):
        code, output = worlds.finish(
            worlds.start(
                worlds.REPOSITORY,
                *command,
                str(tmp_path / out),
                *more,
                module="data_prep.prepare",
                variables={"SLURM_CONF": environment["SLURM_CONF"]},
            )
        )
        assert code == 0, output
    for _ in range(300):
        if (tmp_path / "there" / "README.md").is_file():
            break
        time.sleep(0.5)
    names = sorted(
        p.name for p in (tmp_path / "here").iterdir() if p.name.endswith((".tar", ".json"))
    )
    assert len(names) >= 8
    for name in names:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
