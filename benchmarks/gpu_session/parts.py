"""The parts of a GPU session: commands with time limits, in order of what they would reveal."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from core.precision import Precision
from models.language.float8 import has_torchao

MEMORY_ROWS = "memory.json"
"""File of measured and traced memory."""
GPU_PATH_MARK = "gpu or gpu_path"
"""Tests on a GPU, and those that provoke faults of the GPU path on a CPU."""
_SMOKE_SECONDS = 70
_CPU_SECONDS = 1800
"""Time limit of every part on a CPU, which only ends what hangs: machines differ, and are busy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One command of the session."""

    name: str
    command: tuple[str, ...]
    seconds: int
    """Time limit; the command is asked to stop then."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables in addition to those of the session."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """Settings of all parts."""

    work: Path
    """Folder for logs and stores of results."""
    out: Path
    """Folder for results that are kept."""
    num_gpus: int
    """Visible GPUs; 0 runs every part in miniature on the CPU."""

    @property
    def is_cpu(self) -> bool:
        """Return whether the session only checks that its parts work."""
        return self.num_gpus == 0

    @property
    def accelerator(self) -> str:
        """Return the accelerator of stage runs."""
        return "cpu" if self.is_cpu else "gpu"


def all_parts(session: Session) -> list[Part]:
    """Return the parts: smoke runs, tests, memory, step benchmark, two ranks, and the small study.

    A fault that stops every training shows in the first minute; the longest part comes last.
    """
    return [
        *_smoke_parts(session),
        _tests(session),
        _memory(session),
        _benchmark(session),
        *_two_ranks(session),
        *_small_study(session),
    ]


def has_float8(session: Session) -> bool:
    """Return whether float8 is checked: a CPU has torchao only if it was installed for it."""
    return has_torchao() or not session.is_cpu


def _smoke_parts(session: Session) -> list[Part]:
    return [
        Part(
            name=f"smoke {precision}",
            command=_experiment(
                session,
                f"smoke_{precision}",
                "--exp",
                "smoke",
                "--set",
                f"trainer.precision={precision}",
                f"trainer.accelerator={session.accelerator}",
                # The tower is part of the training step, as at paper scale.
                "model.cache_features=false",
            ),
            seconds=_CPU_SECONDS if session.is_cpu else _SMOKE_SECONDS,
        )
        for precision in Precision
        if precision is not Precision.FLOAT8_MIXED or has_float8(session)
    ]


def _tests(session: Session) -> Part:
    return Part(
        name="tests",
        command=_python("-m", "pytest", "-q", "-m", GPU_PATH_MARK, "tests"),
        seconds=_CPU_SECONDS if session.is_cpu else 210,
        # Recompilations are written to the log; more than a few per run waste minutes.
        environment=(("TORCH_LOGS", "recompiles"),),
    )


def _memory(session: Session) -> Part:
    words = ("-m", "benchmarks.gpu_session.memory", "--out", str(session.out))
    device = "cpu" if session.is_cpu else "cuda"
    seconds = _CPU_SECONDS if session.is_cpu else 120
    return Part(name="memory", command=_python(*words, "--device", device), seconds=seconds)


def _benchmark(session: Session) -> Part:
    if session.is_cpu:
        tiny = ("--shape", "tiny", "--device", "cpu", "--warm", "1", "--steps", "1")
        words = (*tiny, "--workers", "1", "--out", str(session.work))
        return Part(name="benchmark", command=_python("-m", "benchmarks.gpu_step", *words),
                    seconds=_CPU_SECONDS)  # fmt: skip
    seconds = 420
    words = ("--seconds", str(seconds - 60), "--out", str(session.out))
    return Part(
        name="benchmark",
        command=_python("-m", "benchmarks.gpu_step", *words),
        seconds=seconds,
    )


def _two_ranks(session: Session) -> list[Part]:
    """Return a sharded smoke run with frequent checkpoints, if there are two devices."""
    if session.num_gpus == 1:
        return []
    command = _experiment(
        session,
        "two_ranks",
        "--exp",
        "smoke",
        "--set",
        "trainer.devices=2",
        f"trainer.accelerator={session.accelerator}",
        "trainer.precision=bf16-mixed",
        "trainer.checkpoint_every_n_steps=5",
        "instruct.compute.strategy=fsdp2",
    )
    return [
        Part(name="two ranks", command=command, seconds=_CPU_SECONDS if session.is_cpu else 150)
    ]


_IN_MINIATURE = (
    "trainer.accelerator=cpu",
    "align.compute.compile_blocks=false",
    "instruct.compute.compile_blocks=false",
    # The language model of the small profile is a package that a clone does not have.
    "backbones.general.path=data/embedded/models/lm_general",
    "backbones.general.template=embedded",
)
"""Settings under which the small profile runs on a CPU."""


def _small_study(session: Session) -> list[Part]:
    if session.is_cpu:
        return [
            Part(
                name="small study",
                command=_experiment(session, "small", "--exp", "smoke", "--profile", "small",
                                    "--set", *_IN_MINIATURE),
                seconds=_CPU_SECONDS,
            )
        ]  # fmt: skip
    models = Part(name="models", command=_python("-m", "data_prep.small_models"), seconds=60)
    words = ("--exp", "mix_ablation", "--profile", "small", "--set", "trainer.accelerator=gpu")
    training = _experiment(session, "small", *words)
    return [models, Part(name="small study", command=training, seconds=410)]


def _experiment(session: Session, root: str, *words: str) -> tuple[str, ...]:
    return _python("-m", "experiments.run", *words, "--root", str(session.work / root))


def _python(*words: str) -> tuple[str, ...]:
    return (sys.executable, *words)


def chosen(parts: Sequence[Part], only: Sequence[str]) -> list[Part]:
    """Return the parts with the given names, or all.

    Raises:
        ValueError: If a name is unknown.
    """
    names = [part.name for part in parts]
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"unknown parts {unknown}; there are {', '.join(names)}")
    return [part for part in parts if not only or part.name in only]
