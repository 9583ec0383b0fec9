"""The classes of MLflow that tracking uses, imported with telemetry off and short timeouts.

MLflow reads its environment variables when it is imported, so their defaults are set here first;
values that are already set take precedence. The import takes seconds, so that only code that tracks
should import this module.
"""

import logging
import os
import sqlite3
from collections.abc import Sequence

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
logging.getLogger("alembic").setLevel(logging.WARNING)
# It logs errors of the database with tracebacks and raises them as well.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

from mlflow import MlflowClient  # noqa: E402  (reads the variables above)
from mlflow.entities import (  # noqa: E402
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

__all__ = [
    "TRACKING_ERRORS",
    "Dataset",
    "DatasetInput",
    "InputTag",
    "Metric",
    "MlflowClient",
    "MlflowException",
    "log_batch",
    "short_reason",
]

TRACKING_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
"""Errors of the view of the results; they never stop a training."""

_MAX_REASON = 200


def short_reason(error: Exception) -> str:
    """Return the first line of an error, or the name of an error without a message.

    An error that SQLAlchemy or MLflow wraps is that of the database.
    """
    wrapped = (getattr(one, "orig", None) for one in (error, error.__cause__))
    original = next((one for one in wrapped if one is not None), error)
    return (str(original).splitlines() or [type(original).__name__])[0][:_MAX_REASON]


# MLflow's limits for one call of log_batch.
_MAX_METRICS = 1000
_MAX_PARAMS = 100


def log_batch(
    client: MlflowClient,
    run_id: str,
    *,
    metrics: Sequence[Metric] = (),
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Log any number of metrics, parameters and tags in as few calls as MLflow allows."""
    for start in range(0, len(metrics), _MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _MAX_METRICS])
    pairs = [Param(key, value) for key, value in (params or {}).items()]
    for start in range(0, len(pairs), _MAX_PARAMS):
        client.log_batch(run_id, params=pairs[start : start + _MAX_PARAMS])
    if tags:
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
