"""The retry policy: which failures are retried, how often, and on which nodes.

Runs are deterministic, so a failure that a run causes itself would only repeat. A failure that its
node may have caused is retried from the last checkpoint, up to `trainer.retries` times in a row
without progress. status.json and the report list every failure.
"""

import dataclasses
import errno
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

import torch

from core.errors import IrudimenError, NotFiniteError, UnsavedError
from datamodules.storage.remote import StorageError


class Fault(StrEnum):
    """Classes of failures."""

    OWN = "its own error"
    """Invalid data or settings, or a bug; it would repeat."""
    MEMORY = "out of memory"
    """Out of memory; it would repeat."""
    NOT_FINITE = "not finite"
    """The loss or a gradient is NaN or infinite: caused by the run, or by defective hardware."""
    STORAGE = "storage"
    """A disk is full or unreachable, or a remote store does not answer."""
    PEER = "lost connection"
    """The connection to another rank is lost, or a collective timed out."""
    HUNG = "hung"
    """No step finished within the time limit."""
    DIED = "died"
    """The process was killed or its node lost, without an error message."""


NODES_VARIABLE = "IRUDIMEN_NODES"
"""Environment variable with the scheduler's names of a job's nodes, separated by commas."""
_NODE_FAULTS = frozenset({Fault.NOT_FINITE, Fault.PEER, Fault.HUNG, Fault.DIED})
"""Faults that a defective node may cause."""
_BAD_NODE_FAILURES = 2
"""Failures on a node after which jobs avoid it."""
_MAX_BAD_NODES = 4
_FIRST_PAUSE_S, _MAX_PAUSE_S = 15.0, 600.0
_STORAGE_ERRNOS = frozenset(
    {
        errno.EIO,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.ENXIO,
        errno.ENODEV,
    }
)
_PEER_PHRASES = (
    "gloo",
    "nccl",
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "pair closure",
    "timed out waiting",
    "tcpstore",
    "process group",
    "processgroup",
    "socket timeout",
)
_COLLECTIVES_FILE = "distributed_c10d.py"
"""Source file of torch's collectives, whose errors concern other ranks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure of a stage run, as in status.json."""

    fault: Fault
    error: str
    node: str
    """Nodes of the attempt, separated by commas; without SLURM, the node of rank 0."""
    step: int = -1
    """Optimizer steps, or parts of an evaluation, that had been saved; -1 if none."""
    time: float = dataclasses.field(default_factory=time.time)
    final: bool = False
    """Whether the command abandoned the stage run; the next command counts from zero."""


def fault_of(error: BaseException) -> Fault:
    """Classify an exception that ended a stage run."""
    if isinstance(error, NotFiniteError):
        return Fault.NOT_FINITE
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Fault.MEMORY
    causes = list(_iterate_causes(error))
    if isinstance(error, UnsavedError) or any(map(_is_storage_error, causes)):
        return Fault.STORAGE
    if isinstance(error, IrudimenError):
        return Fault.OWN
    return Fault.PEER if isinstance(error, RuntimeError) and _is_peer_error(error) else Fault.OWN


def next_attempt_time(failures: Sequence[Failure], *, retries: int) -> float | None:
    """Return the time from which a failed stage run is retried; None if it is abandoned.

    Args:
        failures: All failures of the stage run, oldest first.
        retries: Maximum number of retries in a row without progress.
    """
    if not failures:  # status.json of an older version
        return None
    last = failures[-1]
    if last.final or last.fault in (Fault.OWN, Fault.MEMORY):
        return None
    row = _failures_without_progress(failures)
    if last.fault is Fault.NOT_FINITE:
        is_repeated = sum(one.fault is Fault.NOT_FINITE for one in row) > 1
        return None if is_repeated or not retries else last.time
    if len(row) > retries:
        return None
    if last.fault is not Fault.STORAGE:
        return last.time
    return last.time + min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 4.0 ** (len(row) - 1))


def find_bad_nodes(histories: Iterable[Sequence[Failure]]) -> list[str]:
    """Return the nodes with the most failures of a grid, at most four.

    A failure on several nodes counts for each of them: the defective node takes part in all of its
    failures, and avoiding a healthy node costs less than another failure.

    Args:
        histories: Failures of every stage run.
    """
    counts = Counter(
        node
        for history in histories
        for one in history
        if one.fault in _NODE_FAULTS
        for node in one.node.split(",")
        if node
    )
    worst = [
        node for node, count in counts.most_common(_MAX_BAD_NODES) if count >= _BAD_NODE_FAILURES
    ]
    return sorted(worst)


def _failures_without_progress(failures: Sequence[Failure]) -> list[Failure]:
    """Return the last failures between which the stage run made no progress, newest first."""
    row = [failures[-1]]
    for before in reversed(failures[:-1]):
        if before.final or before.step < row[-1].step:
            break
        row.append(before)
    return row


def _iterate_causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_peer_error(error: RuntimeError) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if frames and Path(frames[-1].filename).name == _COLLECTIVES_FILE:
        return True
    message = str(error).lower()
    return any(phrase in message for phrase in _PEER_PHRASES)


def _is_storage_error(error: BaseException) -> bool:
    if isinstance(error, StorageError):
        return True
    return isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS
