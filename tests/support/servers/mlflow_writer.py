"""Simulates a training that logs for some seconds and uploads its log to MLflow.

python -m tests.support.servers.mlflow_writer ROOT SECONDS
"""

import json
import sys
import time
from pathlib import Path

from reporting.records import load_grid
from reporting.tracking import grid_tracker as tracking
from tests.support import fake_grid

STEPS = range(1000, 1300)
_EVERY = 10


def main() -> None:
    root, seconds = Path(sys.argv[1]), float(sys.argv[2])
    tracking._PAUSE_S = 0.3  # retry soon, so that the writer meets the outages
    tracker = tracking.GridTracker(root, "mix_ablation", "embedded")
    tracker.ensure_parent_run()
    stages = [stage.folder for stage in load_grid(root, "mix_ablation", "embedded").stages()]
    training = next(folder for folder in stages if folder.parent.name == "instruct")
    status = json.loads((training / "status.json").read_text())
    (training / "status.json").write_text(json.dumps({**status, "state": "running"}))
    tracker.ensure_stage_run(training)
    for first in range(STEPS.start, STEPS.stop, _EVERY):
        fake_grid.write_log(training, range(first, first + _EVERY))
        tracker.sync(training)
        time.sleep(seconds * _EVERY / len(STEPS))
    (training / "status.json").write_text(json.dumps(status))
    for folder in stages:
        tracker.ensure_stage_run(folder)
        tracker.finish_stage(folder)
    tracker.finish()
    sys.stdout.write("behind\n" if tracker.is_behind else "through\n")


if __name__ == "__main__":
    main()
