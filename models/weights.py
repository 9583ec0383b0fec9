"""Weights of named model parts in one safetensors file, loaded and saved strictly."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from core.errors import CheckpointError
from core.io.files import atomic_path
from models.language.adapters import adapter_names
from models.sharding import fill_tensor, gather_tensor

_FORMAT = "irudimen-weights-1"
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def save_weights(
    path: Path,
    parts: Mapping[str, nn.Module],
    *,
    dtype: torch.dtype | None = None,
    is_writer: bool = True,
) -> None:
    """Save every tensor as `{part}.{parameter}`.

    Weights on the CPU are written without a copy; sharded weights and those on a GPU are copied
    once. Sharded parts are gathered tensor by tensor: every rank must call this, and one of
    them writes.

    Args:
        path: File to replace once everything is written.
        parts: Modules by their name in the file.
        dtype: Type of the floating-point tensors in the file; None keeps the type of each.
        is_writer: Whether this rank writes the file.

    Raises:
        OSError: If the file can't be written.
    """
    save_tensors(path, _unique_tensors(parts), dtype=dtype, is_writer=is_writer)


def save_tensors(
    path: Path,
    named: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    is_writer: bool = True,
) -> None:
    """Save tensors under names that begin with a part; see `save_weights`."""
    tensors = {}
    for name, value in named.items():
        whole = gather_tensor(value.detach())
        if is_writer:
            cast = whole.to(dtype) if dtype and whole.is_floating_point() else whole
            tensors[name] = cast.cpu().contiguous()
    if is_writer:
        with atomic_path(path) as temporary, _system_errors():
            safetensors.torch.save_file(tensors, temporary, metadata={"format": _FORMAT})


def load_weights(path: Path, parts: Mapping[str, nn.Module]) -> None:
    """Load the given parts from a file in place; other parts of the file are ignored.

    The file is memory-mapped, and a tensor goes straight to the device of its parameter.

    Raises:
        CheckpointError: If the file is missing or damaged, or does not match a part exactly.
    """
    load_tensors(path, _unique_tensors(parts), tuple(parts))


def load_tensors(path: Path, expected: Mapping[str, torch.Tensor], parts: Sequence[str]) -> None:
    """Load tensors in place; the file must have those of these parts exactly.

    Raises:
        CheckpointError: See `load_weights`.
    """
    prefixes = tuple(f"{part}." for part in parts)
    with _open_weights(path) as file:
        names = set(file.keys())
        relevant = {name for name in names if name.startswith(prefixes)}
        missing, extra = sorted(expected.keys() - relevant), sorted(relevant - expected.keys())
        if missing or extra:
            raise CheckpointError(
                f"{path} does not fit: {len(missing)} missing {missing[:3]}, {len(extra)} "
                f"unexpected {extra[:3]}; it contains the parts "
                f"{sorted({name.split('.')[0] for name in names})}"
            )
        for name in sorted(relevant):
            shape = tuple(file.get_slice(name).get_shape())
            if shape != tuple(expected[name].shape):
                shapes = shape, tuple(expected[name].shape)
                raise CheckpointError(f"{path}: '{name}' is {shapes[0]}, expected {shapes[1]}")
        for name in sorted(relevant):
            fill_tensor(expected[name], file.get_tensor(name).__getitem__)


def list_parts(path: Path) -> tuple[str, ...]:
    """Return the names of the parts in a weights file.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    with _open_weights(path) as file:
        return tuple(sorted({name.split(".")[0] for name in file.keys()}))  # noqa: SIM118


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Raise errors of the operating system as OSError; safetensors raises its own error type."""
    try:
        yield
    except SafetensorError as error:
        found = _SYSTEM_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from error


@contextlib.contextmanager
def _open_weights(path: Path) -> Iterator[Any]:
    """Open a weights file to read its tensors by name.

    Raises:
        CheckpointError: If the file is missing or damaged, or is not a weights file.
    """
    if not path.is_file():
        raise CheckpointError(f"weights file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("format")
            if found != _FORMAT:
                raise CheckpointError(f"{path} has format '{found}', expected '{_FORMAT}'")
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weights file {path} is damaged ({error}); restore it") from error


def _unique_tensors(parts: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Return every tensor of the parts once: tied weights have their first name only.

    A part with adapters contributes only those, because its other weights never change.
    """
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for part, module in parts.items():
        # Compare parameters, not addresses: a rank's shard may be empty and have no address.
        owners = {
            name: id(owner) for name, owner in module.named_parameters(remove_duplicate=False)
        }
        adapters = adapter_names(module)
        for name, value in module.state_dict().items():
            if adapters and name not in adapters:
                continue
            if owners.get(name) in seen:
                continue
            if name in owners:
                seen.add(owners[name])
            tensors[f"{part}.{name}"] = value
    return tensors
