"""Forwards what lies under a root to MLflow: `python -m experiments.sync --root mlruns`.

For runs that were made while the server was away, or on machines that never reach it. What is there
already stays as it is, so it may be given at any time and again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from core.errors import DataError
from core.process.command import clear_errors
from core.process.log import without_password
from pipeline.store.states import State
from reporting.records import StageRecord, load_grid
from reporting.tracking.grid_tracker import GridTracker


def sync_grid(root: Path, experiment: str, profile: str) -> GridTracker:
    """Forward one grid; the tracker says whether all of it went through."""
    tracker = GridTracker(root, experiment, profile)
    tracker.ensure_parent_run()
    grid = load_grid(root, experiment, profile)
    stages = [stage for stage in grid.stages() if stage.attempts]
    for stage in stages:
        tracker.ensure_stage_run(stage.folder)
        tracker.finish_stage(stage.folder)
    report = grid.folder / "report"
    tracker.finish([report] if report.is_dir() else [], state=_state(stages))
    return tracker


def _state(stages: Sequence[StageRecord]) -> State:
    found = {stage.state for stage in stages}
    for worst in (State.FAILED, State.RUNNING, State.INTERRUPTED, State.WAITING):
        if worst in found:
            return worst
    return State.DONE


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Forward every grid of a root; 1 if something did not go through."""
    parser = argparse.ArgumentParser(prog="experiments.sync", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("mlruns"), help="output folder")
    options = parser.parse_args(arguments)
    console, behind = Console(), False
    paths = sorted(options.root.glob("grids/*/grid.json"))
    if not paths:
        raise DataError(f"no grid under {options.root}; name the output folder with --root")
    for path in paths:
        about = json.loads(path.read_text())
        tracker = sync_grid(options.root, about["experiment"], about["profile"])
        told = "[red]not all went through" if tracker.is_behind else "[green]forwarded"
        where = escape(without_password(tracker.uri))
        console.print(f"{path.parent.name}: {told}[/] to {where}", highlight=False)
        behind = behind or tracker.is_behind
    return int(behind)


if __name__ == "__main__":
    sys.exit(main())
