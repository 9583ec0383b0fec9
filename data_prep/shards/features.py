"""Types of all fields of the samples of shards, as Hugging Face `datasets` writes them in YAML.

Without them, `datasets` infers the types from the first samples and fails at the first sample with
a further field, such as the options of a multiple-choice question, or with another image format.
"""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.reading import reading
from datamodules.shards.tar_members import IMAGE_EXTENSIONS, MEMBER_NAME

_NAMES = {str: "string", bool: "bool", int: "int64", float: "float64"}
_NUMBERS = {"int64", "float64"}
_LARGEST = 1 << 63
_UNSUPPORTED = "unsupported fields"
_UNKNOWN = "null"
"""Type of a field that holds null, or of the elements of a list that is empty, in every sample."""


def find_features(shards: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the name and type of each field of the samples: members of the tar and two of its own.

    Objects become `struct`, arrays `list`. A field that a sample lacks is None there.

    Raises:
        DataError: If a shard can't be read, or `datasets` has no type for a field; the fault is
            'unsupported fields' then.
    """
    members = dict[str, Any]()
    for shard in shards:
        fix = "prepare the data again"
        with reading(shard, fix=fix), tarfile.open(shard, "r:") as tar:
            for info in tar:
                if not info.isreg():
                    continue
                extension = _extension(shard, info.name)
                if extension in IMAGE_EXTENSIONS:
                    found: Any = "image"
                elif extension == "txt":
                    found = "string"
                else:
                    file = tar.extractfile(info)
                    content = json.loads(file.read() if file is not None else b"")
                    found = _type_of(content, f"{shard.name}, {info.name}")
                members[extension] = _merge(members.get(extension, _UNKNOWN), found, extension)
    own = {"__key__": "string", "__url__": "string"}
    return [_render(name, found) for name, found in (*sorted(members.items()), *own.items())]


def _extension(shard: Path, name: str) -> str:
    match = MEMBER_NAME.fullmatch(name)
    extension = match[2] if match is not None else ""
    if extension not in ("json", "txt", *IMAGE_EXTENSIONS):
        raise DataError(f"{shard.name}: {name} is neither JSON, text nor an image", _UNSUPPORTED)
    return extension


def _type_of(value: Any, where: str) -> Any:
    """Return the type of a JSON value: a name, a dict of types, or a list of one type."""
    if value is None:
        return _UNKNOWN
    if isinstance(value, dict):
        if not value:
            raise DataError(f"{where}: an object without fields", _UNSUPPORTED)
        return {name: _type_of(each, f"{where}, {name}") for name, each in value.items()}
    if isinstance(value, list):
        found: Any = _UNKNOWN
        for each in value:
            found = _merge(found, _type_of(each, where), where)
        return [found]
    if type(value) is int and not -_LARGEST <= value < _LARGEST:
        raise DataError(f"{where}: {value} has more than 64 bits", _UNSUPPORTED)
    return _NAMES[type(value)]


def _merge(a: Any, b: Any, where: str) -> Any:
    """Return the type of a field that holds values of both types."""
    if b in (a, _UNKNOWN):
        return a
    if a == _UNKNOWN:
        return b
    if isinstance(a, dict) and isinstance(b, dict):
        return {
            name: _merge(a.get(name, _UNKNOWN), b.get(name, _UNKNOWN), f"{where}, {name}")
            for name in {**a, **b}
        }
    if isinstance(a, list) and isinstance(b, list):
        return [_merge(a[0], b[0], where)]
    if isinstance(a, str) and isinstance(b, str) and {a, b} == _NUMBERS:
        return "float64"
    raise DataError(f"{where}: {_kind(a)} in one sample, {_kind(b)} in another", _UNSUPPORTED)


def _kind(found: Any) -> str:
    return found if isinstance(found, str) else ("struct" if isinstance(found, dict) else "list")


def _render(name: str, found: Any) -> dict[str, Any]:
    if isinstance(found, dict):
        return {"name": name, "struct": [_render(*each) for each in found.items()]}
    if isinstance(found, list):
        return {"name": name, "list": _render_element(found[0])}
    return {"name": name, "dtype": found}


def _render_element(found: Any) -> Any:
    if isinstance(found, dict):
        return [_render(*each) for each in found.items()]
    return {"list": _render_element(found[0])} if isinstance(found, list) else found
