"""Opens MLflow on the database this project writes: `python -m experiments.ui`.

A bare `mlflow ui` would open another, empty database in the working directory.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError
from core.process.command import clear_errors
from core.process.log import without_password

_HOST = "127.0.0.1"


def server_command(root: Path, port: int) -> list[str]:
    """The plain command, to be run in any folder.

    Raises:
        ConfigError: nothing was tracked under this root yet.
    """
    database = root.resolve() / "mlflow.db"
    if not database.is_file():
        raise ConfigError(
            f"no MLflow database {database}; run a grid first: "
            "python -m experiments.run --exp mix_ablation (or name another folder with --root)"
        )
    # One worker: SQLite gains nothing from more, and each takes its own memory.
    return [
        sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", f"sqlite:///{database}",
        "--artifacts-destination", str(database.parent / "artifacts"),
        "--host", _HOST, "--port", str(port), "--workers", "1",
    ]  # fmt: skip


def ui_command(root: Path) -> str:
    """What to type to open MLflow on the runs under a root."""
    python, here = Path(sys.executable), Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    return shlex.join([str(shown), "-m", "experiments.ui", "--root", str(root)])


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the command and the address, then become the server."""
    parser = argparse.ArgumentParser(prog="experiments.ui", description="Open the MLflow pages.")
    parser.add_argument("--root", type=Path, default=Path("mlruns"), help="output folder")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    command = server_command(options.root, options.port)
    if remote := os.environ.get("MLFLOW_TRACKING_URI"):
        shown = escape(without_password(remote))
        console.print(f"note: runs go to MLFLOW_TRACKING_URI={shown}, not to this database")
    console.print(f"MLflow: http://{_HOST}:{options.port}  (Ctrl-C stops it)", highlight=False)
    console.print(shlex.join(["mlflow", *command[3:]]), highlight=False, soft_wrap=True)
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ}
    return _become(command, environment)


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Replace this process, so that whoever stops it stops the server."""
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    sys.exit(main())
