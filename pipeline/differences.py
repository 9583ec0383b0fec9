"""Differences between a planned stage run and finished ones, which explain why it has to run.

A stage run is finished if its address is in the store. If not, at least one input of the address
differs from that of every finished stage run of its kind: a field, the content of a file, the
version of the recipe, or an upstream stage run, whose own difference is the cause.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from core.config import to_plain
from core.errors import DataError
from pipeline.graph import StageNode
from pipeline.store.notes import read_json
from pipeline.store.store import Store

_MAX_VALUE_LENGTH = 60
_UNEXPLAINED = "nothing recorded differs; the code that computes addresses has changed"
_ABSENT = "(absent)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestStage:
    """The finished stage run that differs least from a planned one."""

    address: str
    title: str
    causes: tuple[str, ...]
    """What differs, one sentence each."""


class StageDifferences:
    """Compares planned stage runs with the finished ones of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._finished = cache(self._read_finished)

    def nearest(self, node: StageNode) -> NearestStage | None:
        """Return the finished stage run with the fewest differences; None if there is none.

        Among equally near ones, it is the one that was started last.
        """
        found: NearestStage | None = None
        for record in self._finished(node.kind):
            causes = tuple(self._causes(node, record)) or (_UNEXPLAINED,)
            if found is None or len(causes) < len(found.causes):
                found = NearestStage(
                    address=record["address"], title=record.get("title", ""), causes=causes
                )
        return found

    def _read_finished(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the descriptions of all finished stage runs of a kind, the latest first."""
        paths = self._store.folder(kind, "*").path.parent.glob("*/stage.json")
        finished = [path for path in paths if (path.parent / "result").is_dir()]
        finished.sort(key=lambda path: (-path.stat().st_mtime_ns, str(path)))
        return [record for record in map(_read_record, finished) if record]

    def _causes(self, node: StageNode, record: Mapping[str, Any]) -> Iterator[str]:
        yield from _changed_version(node, record)
        fields = list(_changed_fields(node, record["config"]))
        yield from fields
        yield from _changed_content(node.content, record["data"], has_fields=bool(fields))
        yield from self._changed_inputs(node, record)

    def _changed_inputs(self, node: StageNode, record: Mapping[str, Any]) -> Iterator[str]:
        before: Mapping[str, list[str]] = record["inputs"]
        for role in sorted(before.keys() - node.inputs.keys()):
            yield f"input {role}: no longer read"
        for role, upstream in node.inputs.items():
            if role not in before:
                yield f"input {role}: was not read"
                continue
            kind, address = before[role]
            if address == upstream.address:
                continue
            other = _read_record(self._store.folder(kind, address).path / "stage.json")
            if not other:
                found = [] if upstream.stage.is_cache else [f"its record {address} is gone"]
            elif upstream.stage.is_cache:
                found = list(_changed_version(upstream, other))
            else:
                found = list(self._causes(upstream, other)) or [_UNEXPLAINED]
            yield from (f"input {role}: {cause}" for cause in found)


def _read_record(path: Path) -> dict[str, Any]:
    """Return the content of stage.json; {} if it is missing, damaged or of another format."""
    try:
        record = read_json(path, default={})
    except DataError:
        return {}
    return record if {"address", "config", "data", "inputs"} <= record.keys() else {}


def _changed_version(node: StageNode, record: Mapping[str, Any]) -> Iterator[str]:
    before, now = record.get("recipe_version"), node.stage.recipe_version
    if before not in (None, now):
        yield f"recipe version of '{node.kind}': {before} -> {now}"


def _changed_fields(node: StageNode, config: Mapping[str, Any]) -> Iterator[str]:
    now = _flatten(to_plain(node.stage, with_execution=False))
    execution_only = _flatten(to_plain(node.stage)).keys() - now.keys()
    before = {name: value for name, value in _flatten(config).items() if name not in execution_only}
    for name in sorted(now.keys() | before.keys()):
        if now.get(name, _ABSENT) != before.get(name, _ABSENT):
            yield f"field {name}: {_show(before, name)} -> {_show(now, name)}"


def _changed_content(
    now: Mapping[str, str], before: Mapping[str, str], *, has_fields: bool
) -> Iterator[str]:
    """Yield files and definitions whose content differs.

    A file that only one side has is explained by a changed field, unless its folder is the same.
    """
    for name in sorted(now.keys() & before.keys()):
        if now[name] != before[name]:
            yield f"file {name}: content changed"
    folders = {Path(name).parent for name in now.keys() & before.keys()}
    for names, change in (
        (now.keys() - before.keys(), "new"),
        (before.keys() - now.keys(), "gone"),
    ):
        for name in sorted(names):
            if not has_fields or Path(name).parent in folders:
                yield f"file {name}: {change}"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted path -> value of the leaves of a tree of mappings."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, child in value.items():
        found |= _flatten(child, f"{prefix}.{name}" if prefix else str(name))
    return found


def _show(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return _ABSENT
    text = json.dumps(values[name], ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."
