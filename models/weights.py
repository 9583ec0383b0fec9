"""Weights of named model parts in one safetensors file, loaded and saved strictly."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from core.errors import CheckpointError
from core.io.files import atomic_write_bytes
from models.language.adapters import adapter_names
from models.sharding import fill_tensor, gather_tensor

_FORMAT = "irudimen-weights-1"


def save_weights(
    path: Path,
    parts: Mapping[str, nn.Module],
    *,
    dtype: torch.dtype = torch.float32,
    is_writer: bool = True,
) -> None:
    """Save every tensor as `{part}.{parameter}`; floating-point tensors are cast to `dtype`.

    Sharded parts are gathered tensor by tensor: every rank must call this, and one of them writes.
    """
    tensors = {}
    for name, value in _unique_tensors(parts).items():
        whole = gather_tensor(value.detach())
        if is_writer:
            cast = whole.to(dtype) if whole.is_floating_point() else whole
            tensors[name] = cast.cpu().contiguous()
    if is_writer:
        content = safetensors.torch.save(tensors, metadata={"format": _FORMAT})
        atomic_write_bytes(path, content)


def load_weights(path: Path, parts: Mapping[str, nn.Module]) -> None:
    """Load the given parts from a file in place; other parts of the file are ignored.

    Raises:
        CheckpointError: If the file is missing or damaged, or does not match a part exactly.
    """
    found = _read_tensors(path)
    expected = _unique_tensors(parts)
    prefixes = tuple(f"{part}." for part in parts)
    relevant = {name for name in found if name.startswith(prefixes)}
    missing, extra = sorted(expected.keys() - relevant), sorted(relevant - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{path} does not fit: {len(missing)} missing {missing[:3]}, {len(extra)} unexpected "
            f"{extra[:3]}; it contains the parts {sorted({name.split('.')[0] for name in found})}"
        )
    for name in sorted(relevant):
        if found[name].shape != expected[name].shape:
            shapes = tuple(found[name].shape), tuple(expected[name].shape)
            raise CheckpointError(f"{path}: '{name}' is {shapes[0]}, expected {shapes[1]}")
    for name in relevant:
        fill_tensor(expected[name], found[name].__getitem__)


def list_parts(path: Path) -> tuple[str, ...]:
    """Return the names of the parts in a weights file.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    return tuple(sorted({name.split(".")[0] for name in _read_tensors(path)}))


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointError(f"weights file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weights file {path} is damaged ({error}); restore it") from error
    if metadata.get("format") != _FORMAT:
        found = metadata.get("format")
        raise CheckpointError(f"{path} has format '{found}', expected '{_FORMAT}'")
    return tensors


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
