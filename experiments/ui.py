"""Starts MLflow on the database of a root: `python -m experiments.ui`.

A plain `mlflow ui` would open a new, empty database in the working directory instead.
"""

from core.process.command import catch_user_errors

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlencode

from core.process.log import without_password
from core.process.options import given_path, port_number

_EPILOG = """examples:
  python -m experiments.ui
  python -m experiments.ui --root mlruns/ca --port 5001
"""
_MAX_COMPARED = 12
"""Evaluations in the prepared comparison: more do not fit onto the screen."""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the command and its address, then replace this process by the server."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ui",
        description="Serve the MLflow user interface for the runs in an output folder.",
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
    parser.add_argument("--port", type=port_number, default=5000, help="port (default: 5000)")
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.markup import escape

    from reporting.tracking.local_store import check_database, relocate_artifacts
    from reporting.tracking.server import SERVER_HOST, server_command

    console = Console(stderr=True)
    command = server_command(options.root, options.port)
    check_database(options.root)
    relocate_artifacts(options.root)
    if remote := os.environ.get("MLFLOW_TRACKING_URI"):
        shown = escape(without_password(remote))
        console.print(f"note: runs are tracked in MLFLOW_TRACKING_URI={shown}, not this database")
    console.print(
        f"MLflow: http://{SERVER_HOST}:{options.port}  (stop with Ctrl-C)", highlight=False
    )
    for link in _links(options.root, f"http://{SERVER_HOST}:{options.port}"):
        console.print(escape(link), highlight=False, soft_wrap=True)
    console.print(shlex.join(["mlflow", *command[3:]]), highlight=False, soft_wrap=True)
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ}
    return _replace_process(command, environment)


def _links(root: Path, server: str) -> Iterator[str]:
    """Yield the address of every experiment in the training view, and of a comparison of cells."""
    from reporting.tracking.local_store import newest_evaluations

    for number, name, runs in newest_evaluations(root, _MAX_COMPARED):
        yield f"  {name}: {server}/#/experiments/{number}/runs"
        if len(runs) > 1:
            query = urlencode({"runs": json.dumps(runs), "experiments": json.dumps([number])})
            yield f"    {len(runs)} evaluations compared: {server}/#/compare-runs?{query}"


def _replace_process(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Execute a command in place of this process, so that signals reach the server itself."""
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    sys.exit(main())
