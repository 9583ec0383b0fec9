"""Uploads all grids under a root to MLflow: `python -m experiments.sync --root mlruns`.

Use it after running while the tracking server was unreachable, or on machines without access to it.
The command can be repeated at any time; data that is already on the server is skipped.
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import DataError
from core.io.reading import reading
from core.process.log import without_password
from core.process.options import given_path
from pipeline.store.notes import read_grid_json

_EPILOG = """examples:
  MLFLOW_TRACKING_URI=https://mlflow.example.org python -m experiments.sync
  python -m experiments.sync --root mlruns/ca
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Upload every grid under a root and return 1 if an upload is incomplete."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sync",
        description="Upload the runs of every grid in an output folder to the MLflow server,\n"
        "for example after the server was unreachable. Runs that are already there are skipped.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root",
        type=given_path,
        default=Path("mlruns"),
        metavar="FOLDER",
        help="output folder of all runs (default: mlruns)",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.markup import escape

    from reporting.tracking.local_store import check_database
    from reporting.tracking.sync import sync_grid  # MLflow is slow to import

    console, is_any_behind = Console(), False
    paths = sorted(options.root.glob("grids/*/grid.json"))
    if not paths:
        raise DataError(f"no grid under {options.root}; set the output folder with --root")
    check_database(options.root)
    for path in paths:
        about = read_grid_json(path.parent)
        with reading(path, fix="run the grid again, which writes it"):
            experiment, profile = str(about["experiment"]), str(about["profile"])
        tracker = sync_grid(options.root, experiment, profile, path.parent.name)
        result = "[red]upload incomplete" if tracker.is_behind else "[green]uploaded"
        where = escape(without_password(tracker.uri))
        console.print(f"{path.parent.name}: {result}[/] to {where}", highlight=False)
        is_any_behind = is_any_behind or tracker.is_behind
    return int(is_any_behind)


if __name__ == "__main__":
    sys.exit(main())
