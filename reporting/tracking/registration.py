"""Registration of a grid's hypotheses as MLflow has it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.process.log import get_logger
from pipeline.store.registration import Registration
from reporting.tracking.client import TRACKING_ERRORS, MlflowClient, short_reason
from reporting.tracking.local_store import RootIdentity, default_store, has_database

GRID_TAG = "irudimen.grid"
"""Tag of a parent run with the name of the grid."""
ROOT_TAG = "irudimen.root"
"""Tag of a parent run that distinguishes output folders: several users may share one server."""

_SHA256, _TIME_UTC = "registration_sha256", "registration_time_utc"
_LOG = get_logger("tracking")


def registration_params(registration: Registration) -> dict[str, str]:
    """Return the parameters of the parent run. MLflow never changes a parameter."""
    return {_SHA256: registration.sha256, _TIME_UTC: registration.time_utc}


def has_registration(params: Mapping[str, str]) -> bool:
    """Return whether the parameters of a parent run contain a registration."""
    return _SHA256 in params


def grid_identity(root: Path, grid_name: str, uri: str) -> dict[str, str]:
    """Return the tags that identify the parent run of a grid at a tracking address."""
    return {GRID_TAG: grid_name, ROOT_TAG: tracked_identity(root, uri)}


def tracked_identity(root: Path, uri: str) -> str:
    """Return the identity of an output folder at a tracking address."""
    identity = RootIdentity.of(root)
    return identity.database if uri == default_store(root) else identity.server


def find_parent_run(
    client: MlflowClient, experiment_ids: list[str], identity: Mapping[str, str]
) -> Any | None:
    """Return the parent run of a grid, or None."""
    where = " and ".join(f"tags.{name} = '{value}'" for name, value in identity.items())
    found = client.search_runs(experiment_ids, filter_string=where, max_results=1)
    return found[0] if found else None


def tracked_registration(
    root: Path, grid_name: str, *, experiment_name: str
) -> Registration | None:
    """Return the registration that MLflow has for a grid; None if it has none.

    Args:
        root: Output folder of all runs.
        grid_name: Name of the grid's folder.
        experiment_name: Name of the MLflow experiment.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_store(root)
    try:
        if uri == default_store(root) and not has_database(root):
            return None
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(experiment_name)
        if experiment is None:
            return None
        run = find_parent_run(
            client, [experiment.experiment_id], grid_identity(root, grid_name, uri)
        )
    except TRACKING_ERRORS as error:
        _LOG.warning("the registration could not be compared with MLflow: %s", short_reason(error))
        return None
    if run is None or not has_registration(run.data.params):
        return None
    params = run.data.params
    return Registration.from_json({"sha256": params[_SHA256], "time_utc": params[_TIME_UTC]})
