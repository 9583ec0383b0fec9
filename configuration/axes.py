"""Axes of a grid: varying any configuration field, and naming cells by what they differ in."""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from configuration.run_config import CellConfig, RunConfig, Stages
from core.config import fingerprint, to_plain
from core.errors import ConfigError, unknown_name

AxisValue: TypeAlias = str | float | int | bool | None

_STUDY = "cell"
"""The section of a `RunConfig` whose fields are always axes."""
_MAX_VALUE_CHARS = 24
"""Longer values appear in a cell id as a hash."""
_HASH_CHARS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridCell:
    """One cell of a grid: its configuration and its place on the axes."""

    cell_id: str
    """Readable name, unique within the grid; no code parses it."""
    config: RunConfig
    axes: dict[str, AxisValue]
    """The fields of `CellConfig` by name, and every other configuration path in which cells of
    the grid differ."""


def vary(
    base: RunConfig, fields: Mapping[str, Sequence[Any]] | None = None, /, **cell: Sequence[Any]
) -> list[RunConfig]:
    """Return one configuration per combination of values; the last axis varies fastest.

    Args:
        base: Configuration that all cells share.
        fields: Dotted path of any configuration field -> its values, for example
            `{"model.connector.kind": tuple(ConnectorKind)}`.
        **cell: Field of `CellConfig` -> its values. `target_samples` replaces the share.

    Raises:
        ConfigError: If a path does not exist.
    """
    if "target_samples" in cell:
        cell = {"target_share": (None,), **cell}
    axes = {**(fields or {}), **{f"{_STUDY}.{name}": values for name, values in cell.items()}}
    return [
        _replace_all(base, dict(zip(axes, values, strict=True)))
        for values in itertools.product(*axes.values())
    ]


def name_cells(configs: Sequence[RunConfig]) -> tuple[GridCell, ...]:
    """Name the cells of a grid by the fields in which they differ.

    Raises:
        ConfigError: If two cells are equal.
    """
    flat = [flatten(config) for config in configs]
    paths = _varying_paths(flat)
    names = short_names(paths)
    cells: dict[str, GridCell] = {}
    for config, values in zip(configs, flat, strict=True):
        parts = [f"{names[path]}{_slug(values.get(path))}" for path in paths]
        cell_id = "_".join([_study_id(config.cell), *parts])
        if cell_id in cells:
            raise ConfigError(f"two cells of the grid are equal: '{cell_id}'; vary a field")
        study = to_plain(config.cell).items()
        axes: dict[str, AxisValue] = {name: value for name, value in study if value is not None}
        axes |= {path: values.get(path) for path in paths}
        cells[cell_id] = GridCell(cell_id=cell_id, config=config, axes=axes)
    return tuple(cells.values())


def flatten(config: object) -> dict[str, AxisValue]:
    """Return the leaves of a configuration by dotted path; lists are JSON text."""
    leaves: dict[str, AxisValue] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else key, value)
        else:
            leaves[prefix] = json.dumps(node) if isinstance(node, list) else node

    walk("", to_plain(config))
    return leaves


def _varying_paths(flat: Sequence[Mapping[str, AxisValue]]) -> list[str]:
    """Return the paths outside the study's own axes whose value is not the same in all cells."""
    known = dict.fromkeys(path for leaves in flat for path in leaves)
    return [
        path
        for path in known
        if not path.startswith(f"{_STUDY}.") and len({leaves.get(path) for leaves in flat}) > 1
    ]


def short_names(paths: Iterable[str], *, min_parts: int = 1) -> dict[str, str]:
    """Map each path to its shortest suffix, of `min_parts` or more, that no other path has."""
    paths, names = list(paths), {}
    for path in paths:
        parts = path.split(".")
        for length in range(min(min_parts, len(parts)), len(parts) + 1):
            suffix = ".".join(parts[-length:])
            if sum(f".{other}".endswith(f".{suffix}") for other in paths) == 1:
                break
        names[path] = suffix
    return names


def _study_id(cell: CellConfig) -> str:
    text = "_txt" if cell.text_only else ""
    stages = "" if cell.stages is Stages.BOTH else f"_{cell.stages.value}"
    return f"{cell.backbone}_{_amount_id(cell)}{text}{stages}_s{cell.seed}"


def _amount_id(cell: CellConfig) -> str:
    if cell.target_share is not None:
        return f"share{100 * cell.target_share:g}"
    base = "" if cell.base_samples is None else f"+{cell.base_samples}"
    return f"samples{cell.target_samples}{base}"


def _slug(value: AxisValue) -> str:
    text = re.sub(r"[^\w.+-]+", "-", f"{value:g}" if isinstance(value, float) else str(value))
    return text if len(text) <= _MAX_VALUE_CHARS else fingerprint(value)[:_HASH_CHARS]


def _replace_all(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    replaced = _replace(config, [(path, path.split("."), value) for path, value in values.items()])
    if not isinstance(replaced, RunConfig):
        raise TypeError(f"expected a RunConfig, got {type(replaced).__name__}")
    return replaced


def _replace(node: Any, values: Sequence[tuple[str, Sequence[str], Any]]) -> Any:
    """Return a copy of a dataclass or dict with some values replaced at once.

    Fields of a dataclass may exclude each other, so that one after the other would be rejected.

    Args:
        node: A dataclass or dict.
        values: Full path of each value, the part of the path that is left, and the value.
    """
    if isinstance(node, dict):
        known: list[str] = list(node)
    elif dataclasses.is_dataclass(node):
        known = [field.name for field in dataclasses.fields(node)]
    else:
        known = []
    inner: dict[str, list[tuple[str, Sequence[str], Any]]] = {}
    changes: dict[str, Any] = {}
    for path, (key, *rest), value in values:
        if key not in known:
            raise ConfigError(unknown_name("configuration field", key, known, fix=f"Axis: {path}."))
        if rest:
            inner.setdefault(key, []).append((path, rest, value))
        else:
            changes[key] = value
    for key, parts in inner.items():
        changes[key] = _replace(node[key] if isinstance(node, dict) else getattr(node, key), parts)
    return {**node, **changes} if isinstance(node, dict) else dataclasses.replace(node, **changes)
