"""Copy an empty MLflow database instead of migrating every new one.

MLflow creates an SQLite database by replaying all its migrations, which takes 5 s. Here the first
new database of a session is kept, still empty, and every further one starts as a copy of it.
"""

import functools
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any


def copy_from(template: Path) -> Callable[[], None]:
    """Create new databases of this process from a template; return how to undo it."""
    from mlflow.store.db import utils

    real = utils._initialize_tables
    utils._initialize_tables = functools.partial(_initialize, real, template)
    return functools.partial(setattr, utils, "_initialize_tables", real)


def _initialize(real: Callable[[Any], None], template: Path, engine: Any) -> None:
    database = engine.url.database
    is_new = engine.dialect.name == "sqlite" and not _tables(database)
    if is_new and template.is_file():
        engine.dispose()
        shutil.copyfile(template, database)
        return
    real(engine)
    if is_new:
        _keep(Path(database), template)


def _tables(database: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("select name from sqlite_master").fetchall()


def _keep(database: Path, template: Path) -> None:
    temporary = template.with_name(f".{template.name}.{os.getpid()}")
    with (
        closing(sqlite3.connect(database)) as source,
        closing(sqlite3.connect(temporary)) as copy,
    ):
        source.backup(copy)
    temporary.replace(template)
