"""One run of a grid: launch what is missing, show it, forward it to MLflow, report at the end."""

import argparse
import json
import os
import platform
import subprocess
import time
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from core.config import to_plain
from core.errors import ConfigError, PreemptedError, StageFailedError
from core.io.files import atomic_write_text
from core.process.stop import StopFlag
from experiments.console import GridProgress, show_failures, show_results
from experiments.planning import Plan
from pipeline.launchers.devices import GpuSlots
from pipeline.launchers.local import LocalLauncher
from pipeline.launchers.slurm import SlurmLauncher, load_slurm
from pipeline.launchers.torchrun import TorchrunLauncher, ranks_here
from pipeline.store.states import State
from pipeline.store.store import Store
from reporting.preregistration import register
from reporting.tracking.grid_tracker import GridTracker
from reporting.tracking.server import ui_command
from reporting.tracking.sync import sync_grid

_SYNC_S = 15.0
"""Between two looks at the logs of running stages: each costs the trainings a little of a core."""
_VERSIONS = (
    "torch", "lightning", "transformers", "open_clip_torch", "timm", "mlflow", "numpy",
)  # fmt: skip


class GridRun:
    """Runs a grid from the command line's point of view."""

    def __init__(
        self,
        *,
        args: argparse.Namespace,
        plan: Plan,
        flag: StopFlag,
        console: Console,
    ) -> None:
        self.args = args
        self.plan = plan
        self.graph = plan.graph
        self.flag = flag
        self.console = console
        self.store = Store(args.root)
        self._states: dict[str, State] = {}
        self._last_sync = time.monotonic()

    def run(self) -> None:
        """Run to the end.

        Raises:
            StageFailedError: some stages failed.
            PreemptedError: a stop was asked for.
        """
        begin = time.monotonic()
        folder = self.args.root / "grids" / f"{self.args.exp}-{self.args.profile}"
        atomic_write_text(folder / "grid.json", json.dumps(self._describe(), indent=1))
        if self.plan.cells:
            register(folder)
        try:
            states = self._launch()
        except PreemptedError:
            self._track(dict.fromkeys(self._states, State.INTERRUPTED))
            self._tracker.finish(state=State.INTERRUPTED)
            raise
        failed = [address for address, state in states.items() if state is not State.DONE]
        show_results(self.console, self.graph, self.store)
        # A report that can't be written must not leave the grid open in MLflow.
        summary, outcome_state = list[Path](), State.FAILED
        try:
            outcome = self.plan.finish(self.store)
            summary = [outcome.parent] if self.plan.cells else []
            outcome_state = State.FAILED if failed else State.DONE
        finally:
            self._tracker.finish(summary, state=outcome_state)
            if self._tracker.is_behind and self.plan.cells:  # the server was away for a while
                self._tracker = sync_grid(self.args.root, self.args.exp, self.args.profile)
        self._say_where(outcome, seconds=time.monotonic() - begin)
        if failed:
            show_failures(self.console, self.graph, self.store, failed)
            raise StageFailedError(
                f"{len(failed)} of {len(states)} stage runs are missing; mend the cause and give "
                "the same command again: what is finished stays finished"
            )

    @cached_property
    def _tracker(self) -> GridTracker:
        """Opened when the first stage runs are under way: MLflow takes seconds for its tables."""
        tracker = GridTracker(self.args.root, self.args.exp, self.args.profile)
        tracker.ensure_parent_run()
        return tracker

    def _launcher(self) -> LocalLauncher | SlurmLauncher | TorchrunLauncher:
        trainer = self.plan.trainer
        common: dict[str, Any] = {"store": self.store, "graph": self.graph, "trainer": trainer}
        if self.args.launcher == "slurm":
            config = load_slurm(self.args.slurm, trainer)
            if config.gpu:
                from planner.estimator import Estimator  # heavy: torch and friends

                common["estimator"] = Estimator({}, self.args.root / "cache")
            return SlurmLauncher(config=config, flag=self.flag, **common)
        jobs = self.args.jobs or os.cpu_count() or 1
        if self.args.launcher == "torchrun":
            common["trainer"] = ranks_here(trainer)
            return TorchrunLauncher(flag=self.flag, jobs=jobs, **common)
        if trainer.num_nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes={trainer.num_nodes}: several machines need --launcher slurm or "
                "torchrun (docs/running/clusters.md)"
            )
        return LocalLauncher(jobs=jobs, flag=self.flag, slots=GpuSlots.of(trainer), **common)

    def _launch(self) -> dict[str, State]:
        launcher = self._launcher()
        with GridProgress(self.console, self.graph, self.store) as progress:

            def on_tick(states: dict[str, State]) -> None:
                progress.update(states)
                self._track(states)

            states = launcher.run(on_tick)
        self._track(states)
        return states

    def _track(self, states: dict[str, State]) -> None:
        """Forward changes of state at once, and metrics of running stages now and then."""
        tracker = self._tracker
        is_due = time.monotonic() - self._last_sync > _SYNC_S
        for address, state in states.items():
            before = self._states.get(address)
            folder = self.store.folder(self.graph.nodes[address].kind.value, address).path
            if state is State.RUNNING and (before is not State.RUNNING):
                tracker.ensure_stage_run(folder)
            elif state is State.RUNNING and is_due:
                tracker.sync(folder)
            elif state is State.DONE and before is None:
                tracker.ensure_stage_run(folder)
            elif state in (State.DONE, State.FAILED, State.INTERRUPTED) and (
                before is State.RUNNING
            ):
                tracker.finish_stage(folder)
        if is_due:
            self._last_sync = time.monotonic()
        self._states = dict(states)

    def _say_where(self, outcome: Path, *, seconds: float) -> None:
        say = self.console.print
        say(f"\n[bold]Done[/] in {seconds / 60:.1f} min.", highlight=False)
        say(f"Results: {outcome}", soft_wrap=True, highlight=False)
        say(f"MLflow:  {ui_command(self.args.root)}", soft_wrap=True, highlight=False)
        if self._tracker.is_behind:
            say("[yellow]The MLflow server was away[/]; when it is back: python -m experiments.sync"
                f" --root {self.args.root}", soft_wrap=True, highlight=False)  # fmt: skip

    def _describe(self) -> dict[str, object]:
        """What the report and MLflow need to know of the grid."""
        return {
            "experiment": self.args.exp,
            "profile": self.args.profile,
            "title": f"{self.args.exp} ({self.args.profile})",
            "created": time.time(),
            "git_commit": _git("rev-parse", "HEAD"),
            "git_dirty": bool(_git("status", "--porcelain")),
            "versions": {name: version(name) for name in _VERSIONS},
            "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
            **self._describe_cells(),
        }

    def _describe_cells(self) -> dict[str, object]:
        """All cells of the grid: with `--only`, what other cells have given stays in the report."""
        if not self.plan.cells:
            return {"cells": []}
        first = self.plan.cells[0].config
        cells = [
            {
                "cell_id": cell.cell_id,
                "axes": cell.axes,
                "stages": self.plan.whole.cells[cell.cell_id],
            }
            for cell in self.plan.cells
        ]
        return {
            "languages": to_plain(first.languages),
            "benchmark": f"{first.data.folder}/{first.data.benchmark}",
            "cells": cells,
        }


def _git(*arguments: str) -> str:
    """A git answer, or nothing where this is no checkout."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
