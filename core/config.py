"""Typed configuration: frozen dataclasses from YAML files and dotted overrides.

OmegaConf stays inside this module, so that no other code handles a DictConfig. The merge follows
facebookresearch/lingua, lingua/args.py (BSD-3).
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from core.errors import ConfigError
from core.yaml_text import parse_yaml, read_yaml, type_at

ConfigT = TypeVar("ConfigT")
_DOLLAR = re.compile(r"(\\*)\$\{")


@overload
def load_config(schema: type[ConfigT], *yamls: Path, overrides: Sequence[str] = ()) -> ConfigT: ...
@overload
def load_config(schema: ConfigT, *yamls: Path, overrides: Sequence[str] = ()) -> ConfigT: ...
def load_config(schema: Any, *yamls: Path, overrides: Sequence[str] = ()) -> Any:
    """Merge a dataclass (type or instance), YAML files and `a.b=c` overrides, in that order.

    Raises:
        ConfigError: If a key is unknown, a value has the wrong type, or a value is missing.
    """
    kind = schema if isinstance(schema, type) else type(schema)
    layers = [_read_section(path, kind) for path in yamls]
    layers += [_parse_override(override, kind) for override in overrides]
    try:
        layers = [_escape_dollars(layer) for layer in layers]
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), *layers))
    except ConfigError as error:
        raise ConfigError(f"{error}{_name_overrides(str(error), overrides)}") from error
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        inputs = ", ".join([*map(str, yamls), *overrides])
        raise ConfigError(f"configuration can't be read ({inputs}): {reason}") from error
    except MissingMandatoryValue as error:
        inputs = ", ".join([*map(str, yamls), *overrides]) or "no file"
        raise ConfigError(f"'{error.full_key}' has no value ({inputs}); set it") from error
    except OmegaConfBaseException as error:
        key = f"'{error.full_key}': " if error.full_key else ""
        raise ConfigError(f"configuration: {key}{str(error).splitlines()[0]}") from error


def _name_overrides(message: str, overrides: Sequence[str]) -> str:
    """Return the overrides that an error is about, which knows a field but not its section."""
    paths = {override: override.partition("=")[0] for override in overrides}
    meant = [
        override
        for override, path in paths.items()
        if path not in message
        and re.search(rf"\b{re.escape(path.rpartition('.')[2].strip())}\b", message)
    ]
    return f" (--set {' '.join(meant)})" if meant else ""


def _read_section(path: Path, schema: type) -> dict[str, Any]:
    content = read_yaml(path, schema)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is {content!r:.40}; expected keys and values")
    return content


def _parse_override(override: str, schema: type) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override '{override}' has no '='; use --set section.key=value")
    keys = path.strip().split(".")
    value = parse_yaml(text, type_at(schema, keys), where=f"--set {override}", key=path.strip())
    for key in reversed(keys):
        value = {key: value}
    section: dict[str, Any] = value
    return section


def _escape_dollars(value: Any) -> Any:
    """Escape what OmegaConf would replace: `${` has no meaning in a configuration."""
    if isinstance(value, dict):
        return {key: _escape_dollars(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escape_dollars(inner) for inner in value]
    return _DOLLAR.sub(r"\1\1\\${", value) if isinstance(value, str) else value


EXECUTION_ONLY = {"execution_only": True}
"""Metadata of a dataclass field that changes where and how fast a result is computed, not what."""
ABSENT_IF_NONE = {"absent_if_none": True}
"""Metadata of a dataclass field that is not part of a result while it is None, so that an
unused setting does not change addresses."""


def to_plain(config: object, *, with_execution: bool = True) -> Any:
    """Convert a dataclass tree to JSON types (enums to their values, paths to strings).

    Args:
        config: A dataclass, a container, or a plain value.
        with_execution: Whether to keep fields that determine no result: those that are marked
            `EXECUTION_ONLY`, and those marked `ABSENT_IF_NONE` that are None.
    """
    convert = partial(to_plain, with_execution=with_execution)
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            field.name: convert(getattr(config, field.name))
            for field in dataclasses.fields(config)
            if with_execution or not _is_irrelevant(config, field)
        }
    if isinstance(config, dict):
        return {str(key): convert(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [convert(value) for value in config]
    if isinstance(config, Enum):
        return config.value
    return str(config) if isinstance(config, Path) else config


def _is_irrelevant(config: object, field: "dataclasses.Field[Any]") -> bool:
    """Return whether a field determines no result."""
    is_absent = field.metadata.get("absent_if_none") and getattr(config, field.name) is None
    return bool(field.metadata.get("execution_only") or is_absent)


def dump_config(config: object) -> str:
    """Format a configuration as YAML, which `load_config` reads back to an equal object."""
    return OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))


def fingerprint(value: object) -> str:
    """Return the content address (hexadecimal sha256) of a configuration or tree of JSON types."""
    text = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
