"""MLflow's names, imported with its telemetry off and with short patience for a server.

MLflow reads these variables when it is imported, so they are set here, before it; whoever set them
already keeps their values. The import takes seconds: import this module only to track.
"""

import logging
import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
for _name in ("alembic", "mlflow.store.db.utils"):
    logging.getLogger(_name).setLevel(logging.WARNING)

from mlflow import MlflowClient  # noqa: E402  (after the variables it reads)
from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

__all__ = ["Metric", "MlflowClient", "MlflowException", "Param", "RunTag"]
