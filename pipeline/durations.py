"""Durations of stage runs, predicted from finished ones in the store.

A stage run is expected to take as long as the finished ones of its kind that resemble it most:
those with the fewest differing fields and files. The time of a training is proportional to its
steps, within limits. Results of this machine count before those of others.
"""

import dataclasses
import heapq
import socket
from collections.abc import Iterator, Mapping
from functools import cache
from statistics import median
from typing import Any

from core.config import to_plain
from core.errors import DataError
from pipeline.graph import Graph, StageNode
from pipeline.store.notes import read_json, read_note
from pipeline.store.states import State
from pipeline.store.store import Store
from planner.estimator import StageEstimate

_STEPS = "num_steps"
_IGNORED = frozenset({_STEPS, "seed"})
"""Last parts of fields that do not change the time of a step."""
_MAX_SIMILAR = 5
_MAX_SCALE = 4
"""Largest ratio of steps: a very short training spends most of its time at its start."""
_MINUTE, _HOUR = 60.0, 3600.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DescribedStage:
    """Fields and files of a stage run that may change its time."""

    config: Mapping[str, Any]
    """Fields, by their paths."""
    content: frozenset[Any]
    """Files that it reads, with the hashes of their content."""

    @classmethod
    def of(cls, config: Mapping[str, Any], content: Mapping[str, str]) -> "DescribedStage":
        """Return the description of nested fields and of files."""
        return cls(config=dict(_leaves(config)), content=frozenset(content.items()))


class StageDurations:
    """Predicts how long stage runs take; what finishes later is not seen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._finished = cache(self._read_finished)

    def predict(self, node: StageNode) -> float | None:
        """Return the expected seconds of a whole stage run; None without a finished one."""
        described = describe_node(node)
        steps = described.config.get(_STEPS)
        ranked = sorted(
            (count_differences(described, record["described"]), -float(record["ended"]), at)
            for at, record in enumerate(self._finished(node.kind))
            if _is_comparable(record["described"].config.get(_STEPS), steps)
        )
        similar = [
            self._finished(node.kind)[at]
            for distance, _, at in ranked[:_MAX_SIMILAR]
            if distance == ranked[0][0]
        ]
        times = [_scaled(record, steps) for record in similar]
        return median(times) if times else None

    def _read_finished(self, kind: str) -> list[dict[str, Any]]:
        folder = self._store.folder(kind, "*").path.parent
        found = [record for path in sorted(folder.glob("*")) if (record := _read_record(path))]
        here = [record for record in found if record["node"] == socket.gethostname()]
        return here or found


def describe_node(node: StageNode) -> DescribedStage:
    """Return the fields and files of a stage run of a graph that may change its time."""
    return DescribedStage.of(to_plain(node.stage, with_execution=False), node.content)


def planned_seconds(
    graph: Graph, estimates: Mapping[str, StageEstimate], num_cores: int
) -> dict[str, float]:
    """Return the planned time of stage runs on some cores; what is unknown is missing.

    Args:
        graph: Stage runs of the command.
        estimates: Address -> estimate of the planner.
        num_cores: Cores that a stage run uses that uses all of them.
    """
    return {
        address: one.cpu_seconds / _slots(graph.nodes[address], num_cores)
        for address, one in estimates.items()
        if one.cpu_seconds is not None
    }


def count_differences(one: DescribedStage, other: DescribedStage) -> int:
    """Return the number of fields of one stage run and of files that differ in another."""
    fields: int = sum(
        one.config[name] != other.config.get(name)
        for name in one.config
        if name.rpartition(".")[2] not in _IGNORED
    )
    return fields + len(one.content ^ other.content)


def remaining_seconds(
    graph: Graph, states: Mapping[str, State], left: Mapping[str, float], num_slots: int
) -> float | None:
    """Return the time until every stage run of a graph is done.

    Args:
        graph: Stage runs of the command.
        states: Their states; a missing one counts as waiting.
        left: Seconds that each unfinished stage run still needs on its own.
        num_slots: Stage runs that run side by side. One that uses all cores runs alone.

    Returns:
        Seconds, or None if the time of an unfinished stage run is unknown.
    """
    ended = {address for address in graph.nodes if states.get(address) is State.DONE}
    failed = {address for address in graph.nodes if states.get(address) is State.FAILED}
    waiting = [a for a in graph.nodes if a not in ended and a not in failed]
    waiting = [a for a in waiting if not _depends_on(graph.nodes[a], failed)]
    if any(address not in left for address in waiting):
        return None
    waiting.sort(key=lambda address: states.get(address) is not State.RUNNING)  # stable
    running: list[tuple[float, str]] = []
    now, free = 0.0, num_slots
    while waiting or running:
        for address in list(waiting):
            node = graph.nodes[address]
            needed = _slots(node, num_slots)
            if needed <= free and all(one.address in ended for one in node.inputs.values()):
                heapq.heappush(running, (now + left[address], address))
                waiting.remove(address)
                free -= needed
        if not running:
            return None
        now, address = heapq.heappop(running)
        ended.add(address)
        free += _slots(graph.nodes[address], num_slots)
    return now


def format_left(seconds: float | None) -> str:
    """Format a remaining time, rounded as its uncertainty deserves."""
    if seconds is None:
        return ""
    if seconds < _MINUTE:
        return f"{max(1.0, seconds):.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"


def _read_record(path: Any) -> dict[str, Any]:
    """Return fields, files and time of a finished stage run; {} for any other."""
    status = read_note(path / "status.json")
    if status.get("state") != State.DONE or not status.get("wall_s"):
        return {}
    try:
        about = read_json(path / "stage.json", default={})
    except DataError:
        return {}
    return {
        "described": DescribedStage.of(about.get("config", {}), about.get("data", {})),
        "wall_s": float(status["wall_s"]),
        "ended": float(status.get("ended") or 0.0),
        "node": status.get("node", ""),
    }


def _is_comparable(known: Any, steps: Any) -> bool:
    return not (steps and known) or max(steps / known, known / steps) <= _MAX_SCALE


def _scaled(record: Mapping[str, Any], steps: Any) -> float:
    """Return the time of a finished stage run, for another number of steps."""
    known = record["described"].config.get(_STEPS)
    seconds: float = record["wall_s"]
    return seconds * steps / known if steps and known else seconds


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        yield prefix, value
        return
    for name, child in value.items():
        yield from _leaves(child, f"{prefix}.{name}" if prefix else str(name))


def _slots(node: StageNode, num_slots: int) -> int:
    return num_slots if node.stage.uses_all_cores else 1


def _depends_on(node: StageNode, addresses: set[str]) -> bool:
    return any(
        one.address in addresses or _depends_on(one, addresses) for one in node.inputs.values()
    )
