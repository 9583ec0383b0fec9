"""Run the steps of a preparation as datatrove pipelines, locally or as SLURM job arrays.

datatrove provides exactly what is needed: independent tasks over parts, on local cores or through
SLURM, which skip completed tasks and merge their statistics. Ray Data would need its own cluster.
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
from core.process.interrupts import ending_at_once, without_interrupts
from core.process.machine import use_short_socket_folder
from data_prep.prepare.faults import Ledger
from data_prep.prepare.steps.collect import collect, join
from data_prep.prepare.steps.finish import finish
from data_prep.prepare.steps.produce import produce
from data_prep.prepare.steps.settle import settle
from data_prep.prepare.work import SourcePlan, WorkPlan, load_plan

os.environ.setdefault("DATATROVE_COLORIZE_LOGS", "0")
try:
    import multiprocess.forkserver
    import multiprocess.resource_tracker
    import multiprocess.util
    from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from loguru import logger
except ImportError as _error:
    raise ConfigError("datatrove is not installed: pip install '.[prepare]'") from _error

_PROGRESS_FILE_INTERVAL_S = 1.0


class Step(StrEnum):
    """Steps in order; collect and produce run a task per part, the others a single task."""

    JOIN = "join"
    COLLECT = "collect"
    SETTLE = "settle"
    PRODUCE = "produce"
    FINISH = "finish"


class PrepareStep(PipelineStep):  # type: ignore[misc]
    """A step of a plan as a datatrove pipeline step."""

    name = "irudimen"
    type = "prepare"

    def __init__(self, out: str, step: Step) -> None:
        super().__init__()
        self._out, self._step = out, step

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Run a task; datatrove passes its index as `rank`."""
        del data, world_size
        plan = load_plan(Path(self._out))
        # A process of a killed command may still be running the same task.
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
                self._run_part(plan, rank)

    def _run_part(self, plan: WorkPlan, task: int) -> None:
        source, part = plan.tasks()[task]
        progress = _ProgressFile(progress_file(plan, self._step, task))
        if self._step is Step.COLLECT:
            ledger = collect(plan, source, part, lambda items: progress.update({"items": items}))
        else:
            ledger = produce(plan, source, part, progress.update)
        self._update_statistics(source, ledger)
        progress.update({"items": ledger.num_in}, now=True)

    def _update_statistics(self, source: SourcePlan, ledger: Ledger) -> None:
        """Add the counts of a ledger to datatrove's statistics."""
        self.stat_update(f"{source.name}/in", value=ledger.num_in, unit="part")
        self.stat_update(f"{source.name}/out", value=ledger.num_out, unit="part")
        for reason, count in ledger.dropped.items():
            self.stat_update(f"{source.name}/{reason}", value=count, unit="part")


class _LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """Local executor that writes the log of every task to a file and keeps the terminal clear."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with (
            self.logging_dir.open(f"stderr-{rank:06d}.txt", "w") as file,
            contextlib.redirect_stderr(file),
        ):
            try:
                return super()._run_for_rank(rank, local_rank, node_rank)
            finally:
                logger.remove()


class _ProgressFile:
    """File with the progress of a task, which the command reads to display it."""

    def __init__(self, path: Path) -> None:
        self._path, self._written_at, self._figures = path, 0.0, dict[str, float]()
        path.parent.mkdir(parents=True, exist_ok=True)

    def update(self, figures: dict[str, float], *, now: bool = False) -> None:
        self._figures |= figures
        if now or time.monotonic() - self._written_at > _PROGRESS_FILE_INTERVAL_S:
            self._written_at = time.monotonic()
            atomic_write_text(self._path, json.dumps(self._figures))


def progress_file(plan: WorkPlan, step: Step, task: int) -> Path:
    """Return the path of the progress file of a task."""
    return plan.work / "progress" / f"{step}-{task:06d}.json"


def num_tasks(plan: WorkPlan, step: Step) -> int:
    """Return the number of tasks of a step."""
    return len(plan.tasks()) if step in (Step.COLLECT, Step.PRODUCE) else 1


def run_local(plan: WorkPlan, step: Step, workers: int) -> None:
    """Run a step on this machine."""
    tasks = num_tasks(plan, step)
    use_short_socket_folder(multiprocess.util)
    with without_interrupts(multiprocess.resource_tracker):  # the command ends its tasks
        multiprocess.forkserver.ensure_running()
    logger.remove()
    executor = _LocalExecutor(
        pipeline=[PrepareStep(str(plan.out), step)],
        tasks=tasks,
        workers=min(workers, tasks),
        logging_dir=str(plan.work / "logs" / step),
    )
    with ending_at_once():
        executor.run()


def submit(plan: WorkPlan, workers: int, slurm: dict[str, Any]) -> None:
    """Submit all steps as SLURM job arrays that depend on each other, and return."""
    defaults = {"qos": "", "mail_type": "NONE", "env_command": _job_environment()}
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


def _job_environment() -> str:
    """Return the shell commands that make a job run this checkout with this interpreter."""
    here, bin_folder = shlex.quote(str(Path.cwd())), shlex.quote(str(Path(sys.executable).parent))
    return f"cd {here}; export PATH={bin_folder}:$PATH PYTHONPATH={here}:$PYTHONPATH"
