"""Durations of stage runs, predicted from finished ones in the store.

A stage run is expected to take as long as the finished ones of its kind that resemble it most:
those with the fewest differing fields and files. The time of a training is proportional to its
steps. Results of this machine count before those of others.
"""

import socket
from collections.abc import Iterator, Mapping
from functools import cache
from statistics import median
from typing import Any

from core.config import to_plain
from core.errors import DataError
from pipeline.graph import StageNode
from pipeline.store.notes import read_json, read_note
from pipeline.store.states import State
from pipeline.store.store import Store

_STEPS = "num_steps"
_IGNORED = frozenset({_STEPS, "seed"})
"""Last parts of fields that do not change the time of a step."""
_MAX_SIMILAR = 5


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
