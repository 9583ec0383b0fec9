"""States of a stage run, for the store, the launchers, MLflow and the report."""

from enum import StrEnum


class State(StrEnum):
    """State of a stage run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
