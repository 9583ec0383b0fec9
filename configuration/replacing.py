"""Replacing fields of a configuration by their dotted paths, with values of the right type."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, get_args, get_origin

from configuration.run_config import RunConfig
from core.config import to_plain
from core.errors import ConfigError, unknown_name
from core.yaml_text import parse_yaml, type_at


def replace_fields(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return a configuration with some fields replaced at once.

    Args:
        config: The configuration.
        values: Dotted path of a field -> its value; a text may stand for a member of an enum.

    Raises:
        ConfigError: If a path does not exist or a value has another type than its field.
    """
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
            changes[key] = _typed(path, value)
    for key, parts in inner.items():
        changes[key] = _replace(node[key] if isinstance(node, dict) else getattr(node, key), parts)
    return {**node, **changes} if isinstance(node, dict) else dataclasses.replace(node, **changes)


def _typed(path: str, value: Any) -> Any:
    """Return a value as the type of its field."""
    field_type = type_at(RunConfig, path.split("."))
    if dataclasses.is_dataclass(value) or (isinstance(value, dict) and get_origin(field_type)):
        return value
    if isinstance(value, dict):
        raise ConfigError(f"axis {path} has the value {value!r}; name single fields: {path}.FIELD")
    if value is None and field_type is not Any and type(None) not in get_args(field_type):
        raise ConfigError(f"axis: {path} is None; the field can't be empty")
    found = parse_yaml(json.dumps(to_plain(value)), field_type, where="axis", key=path)
    if isinstance(field_type, type) and issubclass(field_type, Enum):
        return field_type(found)
    return found
