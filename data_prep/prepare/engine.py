"""Runs the steps as datatrove pipelines: tasks on this machine's cores, or a SLURM job array.

datatrove because it does just this and little else: independent tasks over parts, locally or by
SLURM, completed ones remembered, statistics merged. Ray Data brings a cluster of its own.
"""

import contextlib
import json
import os
import shlex
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from core.io.files import atomic_write_text, locked
from data_prep.prepare.collect import collect, join
from data_prep.prepare.faults import Ledger
from data_prep.prepare.finish import finish
from data_prep.prepare.produce import produce
from data_prep.prepare.settle import settle
from data_prep.prepare.work import SourcePlan, WorkPlan, load_plan

os.environ.setdefault("DATATROVE_COLORIZE_LOGS", "0")
try:
    from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from loguru import logger
except ImportError as _error:
    raise ConfigError("datatrove is not installed: pip install '.[prepare]'") from _error

_EVERY_S = 1.0


class Step(StrEnum):
    """In their order; collect and produce have a task per part, the others one."""

    JOIN = "join"
    COLLECT = "collect"
    SETTLE = "settle"
    PRODUCE = "produce"
    FINISH = "finish"


class PrepareStep(PipelineStep):  # type: ignore[misc]
    """One step of a plan, for datatrove."""

    name = "irudimen"
    type = "prepare"

    def __init__(self, out: str, step: Step) -> None:
        super().__init__()
        self._out, self._step = out, step

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do a task; `rank` is its number."""
        del data, world_size
        plan = load_plan(Path(self._out))
        # A process of a killed command may still be at the same task.
        with locked(plan.work / "locks" / f"{self._step}-{rank:06d}"):
            if self._step is Step.JOIN:
                for source in plan.sources:
                    if source.is_joined:
                        join(plan, source)
            elif self._step is Step.SETTLE:
                settle(plan)
            elif self._step is Step.FINISH:
                finish(plan)
            else:
                self._part(plan, rank)

    def _part(self, plan: WorkPlan, rank: int) -> None:
        source, part = plan.tasks()[rank]
        progress = _Progress(progress_file(plan, self._step, rank))
        if self._step is Step.COLLECT:
            ledger = collect(plan, source, part, lambda items: progress.tell({"items": items}))
        else:
            ledger = produce(plan, source, part, progress.tell)
        self._count(source, ledger)
        progress.tell({"items": ledger.num_in}, now=True)

    def _count(self, source: SourcePlan, ledger: Ledger) -> None:
        """For datatrove's own statistics."""
        self.stat_update(f"{source.name}/in", value=ledger.num_in, unit="part")
        self.stat_update(f"{source.name}/out", value=ledger.num_out, unit="part")
        for reason, count in ledger.dropped.items():
            self.stat_update(f"{source.name}/{reason}", value=count, unit="part")


class _LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """Its lines go into files, so that progress and faults can be seen."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with (
            self.logging_dir.open(f"stderr-{rank:06d}.txt", "w") as file,
            contextlib.redirect_stderr(file),
        ):
            try:
                return super()._run_for_rank(rank, local_rank, node_rank)
            finally:
                logger.remove()


class _Progress:
    """A small file per task, for who shows progress."""

    def __init__(self, path: Path) -> None:
        self._path, self._last, self._known = path, 0.0, dict[str, float]()
        path.parent.mkdir(parents=True, exist_ok=True)

    def tell(self, figures: dict[str, float], *, now: bool = False) -> None:
        self._known |= figures
        if now or time.monotonic() - self._last > _EVERY_S:
            self._last = time.monotonic()
            atomic_write_text(self._path, json.dumps(self._known))


def progress_file(plan: WorkPlan, step: Step, rank: int) -> Path:
    """Where a task tells how far it is."""
    return plan.work / "progress" / f"{step}-{rank:06d}.json"


def num_tasks(plan: WorkPlan, step: Step) -> int:
    """Of a step."""
    return len(plan.tasks()) if step in (Step.COLLECT, Step.PRODUCE) else 1


def run_local(plan: WorkPlan, step: Step, workers: int) -> None:
    """A step on this machine."""
    tasks = num_tasks(plan, step)
    logger.remove()
    _LocalExecutor(
        pipeline=[PrepareStep(str(plan.out), step)],
        tasks=tasks,
        workers=min(workers, tasks),
        logging_dir=str(plan.work / "logs" / step),
    ).run()


def submit(plan: WorkPlan, workers: int, slurm: dict[str, Any]) -> None:
    """All steps as SLURM job arrays that wait for each other; the command may be closed then."""
    defaults = {"qos": "", "mail_type": "NONE", "env_command": _environment()}
    before = None
    for step in Step:
        before = SlurmPipelineExecutor(
            pipeline=[PrepareStep(str(plan.out.absolute()), step)],
            tasks=num_tasks(plan, step),
            workers=workers,
            job_name=f"{plan.recipe}-{plan.language}-{step}",
            logging_dir=str(plan.work.absolute() / "logs" / step),
            depends=before,
            **{**defaults, **slurm},
        )
    if before is not None:
        before.run()


def _environment() -> str:
    """What a job has to say first to run this very project."""
    here, bin_folder = shlex.quote(str(Path.cwd())), shlex.quote(str(Path(sys.executable).parent))
    return f"cd {here}; export PATH={bin_folder}:$PATH PYTHONPATH={here}:$PYTHONPATH"
