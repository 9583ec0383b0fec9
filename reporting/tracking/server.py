"""Command lines that start the MLflow server on a root's local database."""

import shlex
import sys
from pathlib import Path

from core.errors import ConfigError

SERVER_HOST = "127.0.0.1"
"""Address of the local server, which other machines cannot reach."""


def server_command(root: Path, port: int) -> list[str]:
    """Return the command that starts the MLflow server; it works in any working directory.

    Raises:
        ConfigError: If nothing has been tracked under this root.
    """
    database = root.resolve() / "mlflow.db"
    if not database.is_file():
        raise ConfigError(
            f"no MLflow database {database}; run a grid first: "
            "python -m experiments.run --exp mix_ablation (or set the output folder with --root)"
        )
    # One worker: SQLite does not benefit from more, and each worker needs its own memory.
    return [
        sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", f"sqlite:///{database}",
        "--artifacts-destination", str(database.parent / "artifacts"),
        "--host", SERVER_HOST, "--port", str(port), "--workers", "1",
    ]  # fmt: skip


def ui_command(root: Path) -> str:
    """Return the command line that opens the runs under a root in MLflow."""
    python, here = Path(sys.executable), Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    return shlex.join([str(shown), "-m", "experiments.ui", "--root", str(root)])
