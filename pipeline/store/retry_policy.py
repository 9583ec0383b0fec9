"""What is done about a stage run that failed: tried again, how often, and where.

A failure that is the run's own repeats itself, because runs are deterministic: trying again wastes
a machine. One that may be its machine's is tried again from the last checkpoint, `trainer.retries`
times in a row without getting further; every one of them is kept in status.json and in the report.
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
    """Kinds of failures."""

    OWN = "its own error"
    """Wrong data or settings, a bug: the same again whenever it is tried."""
    MEMORY = "out of memory"
    """It asked for more than there is. As deterministic as the rest."""
    NOT_FINITE = "not finite"
    """The loss or a gradient is no number: the run's own, or a machine that computes wrongly."""
    STORAGE = "storage"
    """A disk that is full or gone, a store that does not answer."""
    PEER = "lost contact"
    """Another rank is gone, or a collective took too long."""
    HUNG = "hung"
    """No step ended for too long."""
    DIED = "died"
    """Killed, or its machine lost, without a word."""


MACHINES = "IRUDIMEN_MACHINES"
"""Environment variable: the machines of a job as its scheduler names them, joined by commas."""
_ON_A_MACHINE = frozenset({Fault.NOT_FINITE, Fault.PEER, Fault.HUNG, Fault.DIED})
"""Where a machine may be to blame."""
_BAD_AFTER = 2
"""So many of them on one machine, and jobs avoid it."""
_MOST_AVOIDED = 4
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 15.0, 600.0
_STORAGE = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE,
                      errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNRESET, errno.EHOSTDOWN,
                      errno.ENXIO, errno.ENODEV})  # fmt: skip
_PEER_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer",
               "broken pipe", "pair closure", "timed out waiting", "tcpstore", "process group",
               "processgroup", "socket timeout")  # fmt: skip
_COLLECTIVES = "distributed_c10d.py"
"""Where torch's collectives are; what they raise is about other ranks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """One of a stage run, as status.json keeps it."""

    fault: Fault
    error: str
    node: str
    """Machines of the attempt, joined by commas; without SLURM that of the first rank."""
    step: int = -1
    """Optimizer steps, or parts of an evaluation, that were safe on disk; -1: none."""
    time: float = dataclasses.field(default_factory=time.time)
    final: bool = False
    """The command gave up after this one; the next command begins to count anew."""


def fault_of(error: BaseException) -> Fault:
    """The kind of an exception that ended a stage run."""
    if isinstance(error, NotFiniteError):
        return Fault.NOT_FINITE
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Fault.MEMORY
    causes = list(_chain(error))
    if isinstance(error, UnsavedError) or any(map(_is_storage, causes)):
        return Fault.STORAGE
    if isinstance(error, IrudimenError):
        return Fault.OWN
    return Fault.PEER if isinstance(error, RuntimeError) and _is_contact(error) else Fault.OWN


def decide(failures: Sequence[Failure], *, retries: int) -> float | None:
    """When a stage run may go on after its last failure (wall clock); None: not by itself."""
    if not failures:  # status.json is of a version that kept none
        return None
    last = failures[-1]
    if last.final or last.fault in (Fault.OWN, Fault.MEMORY):
        return None
    row = _without_progress(failures)
    if last.fault is Fault.NOT_FINITE:
        again = sum(one.fault is Fault.NOT_FINITE for one in row) > 1
        return None if again or not retries else last.time
    if len(row) > retries:
        return None
    if last.fault is not Fault.STORAGE:
        return last.time
    return last.time + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 4.0 ** (len(row) - 1))


def bad_nodes(histories: Iterable[Sequence[Failure]]) -> list[str]:
    """Machines on which stage runs of a grid failed again and again; the worst, a few at most.

    Which of several did it is not known, so each of them counts: the one that is in all of the
    failures leads, and avoiding a healthy one costs less than meeting the bad one again.
    """
    counts = Counter(
        node
        for history in histories
        for one in history
        if one.fault in _ON_A_MACHINE
        for node in one.node.split(",")
        if node
    )
    worst = [node for node, count in counts.most_common(_MOST_AVOIDED) if count >= _BAD_AFTER]
    return sorted(worst)


def _without_progress(failures: Sequence[Failure]) -> list[Failure]:
    """The last failures in a row between which nothing was gained."""
    row = [failures[-1]]
    for before in reversed(failures[:-1]):
        if before.final or before.step < row[-1].step:
            break
        row.append(before)
    return row


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_contact(error: RuntimeError) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if frames and Path(frames[-1].filename).name == _COLLECTIVES:
        return True
    told = str(error).lower()
    return any(word in told for word in _PEER_WORDS)


def _is_storage(error: BaseException) -> bool:
    if isinstance(error, StorageError):
        return True
    return isinstance(error, OSError) and error.errno in _STORAGE
