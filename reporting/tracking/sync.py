"""Uploads a grid that is already on disk to MLflow.

It serves grids that ran while the tracking server was unreachable, or on machines without access to
it. Points and artifacts that were uploaded before are not uploaded again.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.store.records import StageRecord
from pipeline.store.states import State
from reporting.records import load_grid
from reporting.tracking.grid_tracker import GridTracker


def sync_grid(root: Path, experiment: str, profile: str, name: str = "") -> GridTracker:
    """Upload one grid; the returned tracker `is_behind` if the upload is incomplete."""
    tracker = GridTracker(root, experiment, profile, name)
    tracker.ensure_parent_run()
    grid = load_grid(root, experiment, profile, name)
    stages = [stage for stage in grid.stages() if stage.attempts]
    for stage in stages:
        tracker.ensure_stage_run(stage.folder)
        tracker.finish_stage(stage.folder)
    report = grid.folder / "report"
    tracker.finish([report] if report.is_dir() else [], state=_grid_state(stages))
    return tracker


def _grid_state(stages: Sequence[StageRecord]) -> State:
    found = {stage.state for stage in stages}
    for worst in (State.FAILED, State.RUNNING, State.INTERRUPTED, State.WAITING):
        if worst in found:
            return worst
    return State.DONE
