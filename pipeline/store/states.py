"""The states of a stage run: shared by the store, the launcher, MLflow and the report."""

from enum import StrEnum


class State(StrEnum):
    """Where a stage run stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
