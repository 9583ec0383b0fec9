"""Durations of stage runs, predicted from finished ones in the store.

A stage run is expected to take as long as the finished ones of its kind that resemble it most:
those with the fewest differing fields and files. The time of a training is proportional to its
steps. Results of this machine count before those of others.
"""

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

_STEPS = "num_steps"
_IGNORED = frozenset({_STEPS, "seed"})
"""Last parts of fields that do not change the time of a step."""
_MAX_SIMILAR = 5
_MINUTE, _HOUR = 60.0, 3600.0


class StageDurations:
    """Predicts how long stage runs take; what finishes later is not seen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._finished = cache(self._read_finished)

    def predict(self, node: StageNode) -> float | None:
        """Return the expected seconds of a whole stage run; None without a finished one."""
        config = dict(_leaves(to_plain(node.stage, with_execution=False)))
        content = {*node.content.items()}
        ranked = sorted(
            (_distance(config, content, record), -float(record["ended"]), at)
            for at, record in enumerate(self._finished(node.kind))
        )
        similar = [
            self._finished(node.kind)[at]
            for distance, _, at in ranked[:_MAX_SIMILAR]
            if distance == ranked[0][0]
        ]
        steps = config.get(_STEPS)
        times = [_scaled(record, steps) for record in similar]
        return median(times) if times else None

    def _read_finished(self, kind: str) -> list[dict[str, Any]]:
        folder = self._store.folder(kind, "*").path.parent
        found = [record for path in sorted(folder.glob("*")) if (record := _read_record(path))]
        here = [record for record in found if record["node"] == socket.gethostname()]
        return here or found


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
        "config": dict(_leaves(about.get("config", {}))),
        "content": {*about.get("data", {}).items()},
        "wall_s": float(status["wall_s"]),
        "ended": float(status.get("ended") or 0.0),
        "node": status.get("node", ""),
    }


def _distance(config: Mapping[str, Any], content: set[Any], record: Mapping[str, Any]) -> int:
    """Return the number of fields and files that differ and may change the time."""
    other: Mapping[str, Any] = record["config"]
    fields: int = sum(
        config[name] != other.get(name)
        for name in config
        if name.rpartition(".")[2] not in _IGNORED
    )
    files: set[Any] = content ^ record["content"]
    return fields + len(files)


def _scaled(record: Mapping[str, Any], steps: Any) -> float:
    """Return the time of a finished stage run, for another number of steps."""
    known = record["config"].get(_STEPS)
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
