"""YAML text as plain values, converted by the types of a dataclass.

PyYAML follows YAML 1.1, where `no` and `on` are booleans, `010` is eight, `1:30` is ninety and a
repeated key wins in silence. Here a word is a boolean, number or null only where the type of its
field, or the core schema of YAML 1.2, says so: `no` in a list of texts is the text "no".
"""

import dataclasses
import itertools
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from core.errors import ConfigError, unknown_name

_BOOLEANS = {"true": True, "false": False, "True": True, "False": False}
_CORE_TAGS = "tag:yaml.org,2002:"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+(?:_[0-9]+)*[.]?[0-9]*|[.][0-9]+)(?:[eE][-+]?[0-9]+)?")
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""NUL and halves of surrogate pairs, which no path and no UTF-8 file can hold."""
_MAX_SHOWN = 40
_MAX_VALUES = 1_000_000
"""Largest number of values of a file. Aliases of aliases expand a few lines to billions."""
_TOO_LARGE = 1 << 53
"""Sums of the numbers of samples and steps must stay below the largest integer of an array."""
_MAX_DIGITS = 4000
"""Python converts no longer numbers."""
_SPECIAL_FLOATS = {".inf": "inf", "-.inf": "-inf", "+.inf": "inf", ".nan": "nan"}


def read_yaml(path: Path, schema: Any = Any) -> Any:
    """Return the content of a YAML file as plain values.

    Args:
        path: The file.
        schema: Type that the content is meant for; Any applies the core schema of YAML 1.2.

    Raises:
        ConfigError: If the file is missing or malformed, repeats or lacks a key, or holds a value
            of another type than the schema.
    """
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist")
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"), schema, where=str(path))
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ConfigError(
            f"configuration file {path} is not UTF-8 (byte 0x{byte:02x} at {error.start}); save it "
            "as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"configuration file {path} can't be read: {error}") from error


def parse_yaml(text: str, schema: Any = Any, *, where: str, key: str = "") -> Any:
    """Return a YAML text as plain values; see `read_yaml`.

    Args:
        text: The text.
        schema: Type that the content is meant for.
        where: Name of the text in error messages.
        key: Dotted path of the value, for error messages.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            node = yaml.ScalarNode("tag:yaml.org,2002:null", "")
        return _Converter(where).convert(node, schema, key)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply") from error


def type_at(schema: Any, path: Sequence[str]) -> Any:
    """Return the type at a dotted path of a dataclass; Any where the path is not typed.

    Raises:
        ConfigError: If a dataclass on the path has no such field, or a value has no keys.
    """
    found = schema
    for number, name in enumerate(path):
        found = _option_of(found, is_list=False)
        if dataclasses.is_dataclass(found) and isinstance(found, type):
            found = _field_type(found, name, ".".join(path[: number + 1]), "")
        elif get_origin(found) in (dict, Mapping):
            found = get_args(found)[1]
        elif found is Any:
            return Any
        else:
            inside = ".".join(path[:number])
            raise ConfigError(f"'{'.'.join(path)}' does not exist: '{inside}' has no keys")
    return found


@dataclasses.dataclass(frozen=True)
class _Converter:
    where: str
    count: Iterator[int] = dataclasses.field(default_factory=itertools.count)
    """Counts the values that were converted."""

    def convert(self, node: Any, schema: Any, key: str) -> Any:
        """Return the plain value of a node."""
        if next(self.count) >= _MAX_VALUES:
            raise ConfigError(
                f"{self.where} has more than {_MAX_VALUES:,} values; do not repeat aliases (*NAME)"
            )
        if not node.tag.startswith(_CORE_TAGS) or "python/" in node.tag:
            raise ConfigError(f"{self._place(key)} has the tag '{node.tag}'; remove it")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, schema, key)
        schema = _option_of(schema, is_list=isinstance(node, yaml.SequenceNode))
        origin = get_origin(schema)
        if isinstance(node, yaml.SequenceNode):
            if schema is not Any and origin not in (list, tuple, Sequence):
                raise self._mismatch(key, "a list", schema)
            item = next(iter(get_args(schema)), Any)
            return [self.convert(one, item, f"{key}[{n}]") for n, one in enumerate(node.value)]
        is_section = dataclasses.is_dataclass(schema)
        if schema is not Any and not is_section and origin not in (dict, Mapping):
            raise self._mismatch(key, "a section with keys", schema)
        return self._mapping(node, schema, key)

    def _mapping(self, node: Any, schema: Any, key: str) -> dict[Any, Any]:
        content: dict[Any, Any] = {}
        key_type, value_type = Any, Any
        if get_origin(schema) in (dict, Mapping):
            key_type, value_type = get_args(schema)
        is_section = dataclasses.is_dataclass(schema)
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self.where}: a key of '{key}' is not text")
            name = key_node.value if is_section else self._scalar(key_node, key_type, key)
            path = f"{key}.{name}" if key else str(name)
            if name in content:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"{self.where}: '{path}' is repeated in line {line}; keep one")
            if is_section:
                value_type = _field_type(schema, name, path, self.where)
            content[name] = self.convert(value_node, value_type, path)
        return content

    def _scalar(self, node: Any, schema: Any, key: str) -> Any:
        text, bare = node.value, _option_of(schema, is_list=False)
        if _UNWRITABLE.search(text):
            raise ConfigError(
                f"{self._place(key)} is {text[:_MAX_SHOWN]!a}, which has a NUL character or "
                "half of a surrogate pair; remove it"
            )
        is_optional = schema is Any or type(None) in get_args(schema)
        if node.style is None and text in _NULLS and is_optional:
            return None
        if bare is str:
            return text
        if bare is Any:
            return text if node.style is not None else _core_schema(text)
        return self._typed(text, bare, key)

    def _typed(self, text: str, schema: Any, key: str) -> Any:
        if schema is bool and text in _BOOLEANS:
            return _BOOLEANS[text]
        if schema is int and _INTEGER.fullmatch(text) and len(text) <= _MAX_DIGITS:
            if abs(int(text)) >= _TOO_LARGE:
                raise ConfigError(
                    f"{self._place(key)} is '{text[:_MAX_SHOWN]}', which is too large"
                )
            return int(text)
        if schema is float and (number := _parse_float(text)) is not None and math.isfinite(number):
            return number
        shown = f"'{text[:_MAX_SHOWN]}'" if text else "empty"
        if isinstance(schema, type) and issubclass(schema, Enum):
            known = [str(member.value) for member in schema]
            if text not in known and text not in schema.__members__:
                raise ConfigError(f"{self._place(key)}: {unknown_name('value', text, known)}")
            return text
        if schema in (bool, int, float):
            expected = {bool: "true or false", int: "a whole number", float: "a number"}[schema]
            raise ConfigError(f"{self._place(key)} is {shown}; expected {expected}")
        if dataclasses.is_dataclass(schema) or get_origin(schema) is not None:
            raise self._mismatch(key, shown, schema)
        return text

    def _mismatch(self, key: str, found: str, schema: Any) -> ConfigError:
        origin = get_origin(schema)
        if dataclasses.is_dataclass(schema) or origin in (dict, Mapping):
            expected = "a section with keys"
        elif origin in (list, tuple, Sequence):
            expected = "a list, for example [a, b]"
        else:
            expected = "a single value"
        return ConfigError(f"{self._place(key)} is {found}; expected {expected}")

    def _place(self, key: str) -> str:
        return f"{self.where}: {key}" if key else self.where


def _core_schema(text: str) -> Any:
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text) and len(text) <= _MAX_DIGITS:
        return int(text)
    number = _parse_float(text) if re.match(r"[-+]?(?:0?[.]|[1-9]|0(?![0-9]))", text) else None
    return text if number is None else number


def _parse_float(text: str) -> float | None:
    if text.lower() in _SPECIAL_FLOATS:
        return float(_SPECIAL_FLOATS[text.lower()])
    number = float(text) if _FLOAT.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def _field_type(schema: Any, name: str, path: str, where: str) -> Any:
    hints = get_type_hints(schema)
    known = [field.name for field in dataclasses.fields(schema)]
    if name not in known:
        section, dot, _ = path.rpartition(".")
        prefix = f"{where}: " if where else ""
        paths = [f"{section}{dot}{field}" for field in known]
        raise ConfigError(f"{prefix}{unknown_name('key', path, paths)}")
    return hints[name]


def _option_of(schema: Any, *, is_list: bool) -> Any:
    """Return the option of a union that a value may have, other than None; Any if it is open."""
    if get_origin(schema) not in (Union, types.UnionType):
        return schema
    options = [option for option in get_args(schema) if option is not type(None)]
    if len(options) > 1:
        options = [o for o in options if (get_origin(o) in (list, tuple, Sequence)) == is_list]
    return options[0] if len(options) == 1 else Any
