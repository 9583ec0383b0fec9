"""A team's MLflow server on loopback, with PostgreSQL and an S3-compatible object store."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BUCKET = "runs"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip


def binaries() -> Path | None:
    """Return the folder of the PostgreSQL programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return found[-1] if found else None


def why_not() -> str:
    """Return why the server cannot be started here; empty if it can."""
    if binaries() is None:
        return "no PostgreSQL: apt-get install postgresql"
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL does not run as root, and there is no runuser"
    return ""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Server:
    """MLflow, its database and its object store, which can be stopped and restarted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in ("postgres", "s3", "mlflow")}
        self.uri = f"http://127.0.0.1:{self._ports['mlflow']}"
        self.s3 = f"http://127.0.0.1:{self._ports['s3']}"
        self.database = f"postgresql://mlflow@127.0.0.1:{self._ports['postgres']}/postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start MLflow and wait until it answers."""
        words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri",
                 self.database.replace("postgresql", "postgresql+psycopg2"),
                 "--artifacts-destination", f"s3://{BUCKET}", "--host", "127.0.0.1",
                 "--port", str(self._ports["mlflow"]), "--workers", "1"]  # fmt: skip
        environment = {**os.environ, **KEYS, "MLFLOW_S3_ENDPOINT_URL": self.s3,
                       "MLFLOW_DISABLE_TELEMETRY": "true"}  # fmt: skip
        with (self._folder / "mlflow.log").open("ab") as log:
            self._process = subprocess.Popen(words, env=environment, stdout=log, stderr=log,
                                             start_new_session=True)  # fmt: skip
        _wait_for(f"{self.uri}/health", 90)

    def stop(self) -> None:
        """Send SIGKILL to MLflow and its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def postgres(self, verb: str) -> None:
        """Start PostgreSQL, or stop it immediately as in a crash."""
        options = f"-p {self._ports['postgres']} -c listen_addresses=127.0.0.1 -k {self._folder}"
        words = ["-D", str(self._folder / "db"), "-w", "-l", str(self._folder / "db.log")]
        more = ["-o", options] if verb == "start" else ["-m", "immediate"]
        _as_postgres("pg_ctl", *words, *more, verb)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Query the database without MLflow."""
        import psycopg2

        with contextlib.closing(psycopg2.connect(self.database)) as connection:
            cursor = connection.cursor()
            cursor.execute(query, values)
            return list(cursor.fetchall())


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Start the database, the object store and MLflow."""
    for place in (folder, *folder.parents):  # the user of PostgreSQL needs access
        with contextlib.suppress(PermissionError):
            place.chmod(place.stat().st_mode | 0o111)
    folder.chmod(0o777)
    found = Server(folder)
    _as_postgres("initdb", "-D", str(folder / "db"), "-U", "mlflow", "--auth=trust")
    with contextlib.ExitStack() as stack:
        found.postgres("start")
        stack.callback(found.postgres, "stop")
        words = [sys.executable, "-m", "moto.server", "-p", found.s3.rpartition(":")[2]]
        store = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(store.wait)
        stack.callback(store.kill)
        _wait_for(found.s3, 60)
        make = urllib.request.Request(f"{found.s3}/{BUCKET}", method="PUT")
        urllib.request.urlopen(make, timeout=20).close()
        stack.callback(found.stop)
        found.start()
        yield found


def _as_postgres(name: str, *words: str) -> None:
    found = binaries()
    if found is None:
        raise RuntimeError("no PostgreSQL")
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    done = subprocess.run([*user, str(found / name), *words], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False, cwd="/")  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")


def _wait_for(address: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # the server responds
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)
