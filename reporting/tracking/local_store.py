"""The local MLflow database of an output folder, which may be moved or copied as a whole."""

import contextlib
import dataclasses
import json
import secrets
import sqlite3
from pathlib import Path
from typing import Self

from core.config import fingerprint
from core.errors import ConfigError
from core.io.files import atomic_write_text
from core.io.reading import reading
from core.process.log import get_logger

_DATABASE, _ARTIFACTS, _IDENTITY = "mlflow.db", "artifacts", "root.json"
_LOCATIONS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
"""Table and column of every place where MLflow stores absolute paths of artifacts."""
_LOG = get_logger("tracking")


def default_store(root: Path) -> str:
    """Return the tracking URI under a root; MLflow's own default is the working directory.

    Raises:
        ConfigError: If the path can't be part of a database address.
    """
    path = str(root.resolve())
    if "?" in path:
        raise ConfigError(
            f"--root {root}: '?' is not supported in the path of the database; rename the folder"
        )
    return f"sqlite:///{path}/{_DATABASE}"


def artifact_location(root: Path, experiment: str) -> str:
    """Return the folder of an experiment's artifacts as a URI."""
    return (root.resolve() / _ARTIFACTS / experiment).as_uri()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RootIdentity:
    """Identity of an output folder, which it keeps when it is moved."""

    server: str
    """Identity on a tracking server, which several folders may share; every copy has its own."""
    database: str
    """Identity in the local database, which is copied along with the folder."""

    @classmethod
    def of(cls, root: Path) -> Self:
        """Read the identity of a folder, and write it where it is new.

        A copy gets its own identity if it can be distinguished from a folder that was moved, that
        is, if the original still exists on this machine.
        """
        here, known = str(root.resolve()), _read_identity(root)
        server, place = known.get("id", ""), known.get("path", "")
        database = known.get("database", server)
        if not (server and place == here):
            if server and _is_copy(root, server, Path(place or here)):
                _LOG.info(
                    "%s is a copy of %s; its runs are tracked separately in MLflow", here, place
                )
                server = ""
            server = server or secrets.token_hex(8)
            database = database or server
            content = {"id": server, "path": here, "database": database}
            try:
                atomic_write_text(root / _IDENTITY, json.dumps(content) + "\n")
            except OSError:  # a folder that is only read
                server = database = known.get("id", "") or fingerprint(here)[:16]
        return cls(server=server, database=database)


def _read_identity(root: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        content = json.loads((root / _IDENTITY).read_text(encoding="utf-8"))
        return {name: str(value) for name, value in content.items()}
    return {}


def _is_copy(root: Path, identity: str, other: Path) -> bool:
    """Return whether the folder in which an identity was written is another one that still has it.

    A mount or a link may show one folder under two names.
    """
    if _read_identity(other).get("id") != identity:
        return False
    with contextlib.suppress(OSError):
        return not root.samefile(other)
    return False


def check_database(root: Path) -> None:
    """Check that the database of a root, if there is one, is intact.

    Raises:
        ConfigError: If it is damaged, or another process holds it.
    """
    database = root.resolve() / _DATABASE
    fix = f"move it away and run python -m experiments.sync --root {root}, which recreates it"
    with reading(database, fix=fix, error_class=ConfigError):
        if has_database(root):
            with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as found:
                answer = _check_pages(found, database)
            if answer != "ok":
                raise ValueError(answer)


def _check_pages(connection: sqlite3.Connection, database: Path) -> str:
    try:
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise ConfigError(
            f"{database} is held by another process ({error}); end that process, or run the "
            "command again later"
        ) from error
    return str(answer)


def has_database(root: Path) -> bool:
    """Return whether the database exists; without it, MLflow creates a new one.

    Raises:
        sqlite3.OperationalError: If something else has its name; MLflow would try to open it again
            and again for minutes, without a word.
    """
    database = root.resolve() / _DATABASE
    if not database.is_file() and (database.exists() or database.is_symlink()):
        raise sqlite3.OperationalError(f"{database} is not a file")
    return database.is_file()


def newest_evaluations(root: Path, most: int) -> list[tuple[str, str, list[str]]]:
    """Return id, name and newest finished evaluations of every experiment that has runs.

    Args:
        root: Output folder of all runs.
        most: Maximum number of evaluations per experiment.

    Raises:
        sqlite3.Error: If the database is damaged or locked.
    """
    database = root.resolve() / _DATABASE
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        experiments = connection.execute(
            "SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active' AND "
            "experiment_id IN (SELECT experiment_id FROM runs) ORDER BY name"
        ).fetchall()
        runs = (
            "SELECT runs.run_uuid FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
            "AND tags.key = 'kind' AND tags.value = 'evaluate' "
            "WHERE runs.experiment_id = ? AND runs.lifecycle_stage = 'active' "
            "AND runs.status = 'FINISHED' ORDER BY runs.start_time DESC, runs.run_uuid LIMIT ?"
        )
        return [
            (str(number), str(name), [r for (r,) in connection.execute(runs, (number, most))])
            for number, name in experiments
        ]


def relocate_artifacts(root: Path) -> int:
    """Correct the artifact paths in the database of a folder that was moved.

    MLflow stores absolute paths and offers no way to change them; it would write to the old folder.

    Returns:
        Number of corrected paths.

    Raises:
        sqlite3.Error: If the database is damaged or locked.
    """
    database = root.resolve() / _DATABASE
    if not has_database(root):
        return 0
    here = (root.resolve() / _ARTIFACTS).as_uri()
    num_changed = 0
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not {table for table, _ in _LOCATIONS} <= tables:
            return 0
        for old in _foreign_locations(connection, here):
            for table, column in _LOCATIONS:
                # Names of tables and columns are constants of this module.
                statement = (
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ?"
                )
                size = len(old)
                changed = connection.execute(statement, (here, size + 1, size + 1, f"{old}/"))
                num_changed += changed.rowcount
    if num_changed:
        _LOG.info("the output folder was moved: corrected %d artifact paths of MLflow", num_changed)
    return num_changed


def _foreign_locations(connection: sqlite3.Connection, here: str) -> set[str]:
    """Return the artifact folders of earlier places of this output folder."""
    rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
    return {
        location[: -len(name) - 1]
        for name, location in rows
        if location and location.endswith(f"/{_ARTIFACTS}/{name}") and location != f"{here}/{name}"
    }
