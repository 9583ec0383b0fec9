"""Run of a grid: launch missing stage runs, show progress, track in MLflow, write the report."""

import json
import os
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from configuration.grid_request import GridRequest
from configuration.mixture import single_language_notes
from core.errors import PreemptedError, StageFailedError
from core.io.files import atomic_write_text, locked, present
from core.process.stop import StopFlag
from experiments.run_steps.console import GridProgress, show_failures, show_results
from experiments.run_steps.grid_description import (
    EXPERIMENT_COPY,
    check_continues,
    describe_grid,
)
from experiments.run_steps.launching import LaunchOptions, count_slots, make_launcher
from pipeline.grid_plan import GridPlan
from pipeline.launchers.base import PREEMPTED_MESSAGE
from pipeline.store.locks import RUNNING_MARK, using_store
from pipeline.store.notes import read_grid_json
from pipeline.store.states import State
from pipeline.store.store import Store
from pipeline.training_data_checks import check_training_data
from reporting.claims.preregistration import register
from reporting.records import grid_folder
from reporting.tracking.grid_tracker import GridTracker
from reporting.tracking.local_store import default_store
from reporting.tracking.server import ui_command
from reporting.tracking.sync import sync_grid

_SYNC_INTERVAL_S = 15.0
"""Interval of reading the logs of running stages, which takes CPU time from the training."""


class GridRun:
    """Runs the plan of a request and publishes its results."""

    def __init__(
        self,
        *,
        request: GridRequest,
        options: LaunchOptions,
        plan: GridPlan,
        flag: StopFlag,
        console: Console,
    ) -> None:
        self.request = request
        self.options = options
        self.plan = plan
        self.graph = plan.graph
        self.flag = flag
        self.console = console
        self.store = Store(request.root)
        self._states: dict[str, State] = {}
        self._begin = self._last_sync = time.monotonic()
        self._first_total_s: float | None = None

    def run(self) -> None:
        """Run every missing stage run and publish the results, while none can be deleted.

        Raises:
            ConfigError: If the folder of the grid holds another one.
            DataError: If training samples do not fit into rows.
            StageFailedError: If stage runs failed; the others are finished.
            PreemptedError: If the command was asked to stop; running stages have saved.
        """
        with using_store(self.request.root):
            self.publish(self.train())

    def train(self) -> dict[str, State]:
        """Run every missing stage run of the graph, and return the final states.

        Errors are those of `run`, except for failed stage runs, which are states.
        """
        if "MLFLOW_TRACKING_URI" not in os.environ:
            default_store(self.request.root)  # an unusable name is an error before training
        check_training_data(self.graph, self.store)
        if not self._states:  # a sequential grid trains several times
            for note in single_language_notes(cell.config for cell in self.plan.cells):
                self._print_line(f"[yellow]{escape(note)}[/]")
            for line in self.plan.adapted:
                self._print_line(f"[yellow]{escape(line)}[/]")
            if selection := self.plan.describe_selection():
                self._print_line(escape(selection))
        self._write_description()
        with present(grid_folder(*self._grid_key) / RUNNING_MARK) as has_others:
            try:
                return self._launch()
            except PreemptedError:
                self._track(dict.fromkeys(self._states, State.INTERRUPTED))
                if not has_others():  # another copy of the command continues the grid
                    self._tracker.finish(state=State.INTERRUPTED)
                raise

    def publish(self, states: Mapping[str, State]) -> None:
        """Show the results of stage runs, and write the report.

        Args:
            states: Final states of the stage runs.

        Raises:
            StageFailedError: If stage runs failed.
        """
        failed = [address for address, state in states.items() if state is not State.DONE]
        if self.plan.cells:
            metric = self.plan.cells[0].config.report.deciding_metric
            show_results(self.console, self.graph, self.store, metric)
            if self.plan.note:
                self._print_line(f"[yellow]{escape(self.plan.note)}[/]")
        if failed:  # first, because writing the report may fail, too
            self._print_line("\n[bold red]Failed:[/]")
            show_failures(self.console, self.graph, self.store, failed)
        # The grid's MLflow run must end even if the report can't be written.
        artifacts, grid_state = list[Path](), State.FAILED
        try:
            output = self.plan.publish(self.store)
            artifacts = [output.parent] if self.plan.cells else []
            grid_state = State.FAILED if failed else State.DONE
        finally:
            self._tracker.finish(artifacts, state=grid_state)
            if self._tracker.is_behind and self.plan.cells:  # MLflow could not be used for a time
                self._tracker = sync_grid(*self._grid_key)
        minutes = (time.monotonic() - self._begin) / 60
        if failed:
            self._print_places(output, "Report of the finished stages")
            raise StageFailedError(
                f"{len(failed)} of {len(states)} stage runs failed after {minutes:.1f} min. Fix "
                "the cause and rerun the same command; finished stages are kept."
            )
        first_s = self._first_total_s
        expected = f" (first estimate: {first_s / 60:.1f} min)" if first_s and minutes > 1 else ""
        self._print_line(f"\n[bold]Done[/] in {minutes:.1f} min{expected}.")
        self._print_places(output, "Results")

    def _write_description(self) -> None:
        """Register the hypotheses and write grid.json, unless the folder holds another grid."""
        request, folder = self.request, grid_folder(*self._grid_key)
        with locked(folder / ".lock"):  # another command may start the same grid now
            self._write_description_alone(request, folder)

    def _write_description_alone(self, request: GridRequest, folder: Path) -> None:
        before = read_grid_json(folder, default={})
        check_continues(folder.name, before, describe_grid(request, self.plan, None))
        registration = register(folder, self.plan.hypotheses) if self.plan.cells else None
        self.store.registration = registration
        description = describe_grid(request, self.plan, registration)
        if (file := request.experiment_file) is not None:
            atomic_write_text(folder / EXPERIMENT_COPY, file.read_text(encoding="utf-8"))
        atomic_write_text(folder / "grid.json", json.dumps(description, indent=1))

    @property
    def _grid_key(self) -> tuple[Path, str, str, str]:
        request = self.request
        return request.root, request.experiment, request.profile, request.name

    @cached_property
    def _tracker(self) -> GridTracker:
        """Tracker of the grid, created after the first launch: MLflow needs seconds to set up."""
        tracker = GridTracker(*self._grid_key)
        tracker.ensure_parent_run()
        return tracker

    def _launch(self) -> dict[str, State]:
        launcher = make_launcher(self.plan, self.options, self.store, self.flag)
        num_slots = count_slots(self.plan.trainer, self.options)
        with GridProgress(self.console, self.graph, self.store, num_slots=num_slots) as progress:

            def on_tick(states: dict[str, State]) -> None:
                progress.update(states)
                self._track(states)

            with self.flag.listening():
                states = launcher.run(on_tick)
            self._first_total_s = progress.clock.first_total_s
            if self.flag.is_set:  # by a signal while the last stage run ended
                raise PreemptedError(PREEMPTED_MESSAGE)
        self._track(states)
        return states

    def _track(self, states: dict[str, State]) -> None:
        """Forward state changes immediately, and metrics of running stages at intervals."""
        tracker = self._tracker
        is_due = time.monotonic() - self._last_sync > _SYNC_INTERVAL_S
        for address, state in states.items():
            before = self._states.get(address)
            folder = self.store.folder(self.graph.nodes[address].kind, address).path
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

    def _print_line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False)

    def _print_places(self, output: Path, title: str) -> None:
        """Print where the results are; the output of an experiment without cells is its models."""
        self._print_line(f"{title if self.plan.cells else 'Results'}: {output}")
        self._print_line(f"MLflow: {ui_command(self.request.root)}")
        if self._tracker.is_behind:
            self._print_line(
                "[yellow]MLflow lacks some of the runs.[/] Upload them once it can be used again: "
                f"python -m experiments.sync --root {self.request.root}"
            )
