"""Sharding of a model over several devices (FSDP2), and loading of sharded weights.

Every decoder block, the embeddings and the output layer are groups of their own, gathered only when
they compute, as are the layers of a connector that works inside the decoder. Other parts of a
connector and the final norm are in the root group. Parts without trainable parameters are
replicated on every rank: sharding a frozen language model in stage 1 would only add communication.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import PreTrainedModel

from core.errors import CheckpointError
from core.io.reading import reading
from core.precision import Precision
from models.language.blocks import decoder_blocks
from models.language.generation import decoder_and_output_layer
from models.loss import LOSS_METHOD, attach_loss
from models.vlm import VisionLanguageModel

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_RESTORE = "restore the file"


def sharding_policy(precision: str) -> MixedPrecisionPolicy:
    """Return the FSDP2 policy that corresponds to a Lightning precision.

    Gradients are always summed in float32: 16-bit sums over ranks and micro-batches degrade the
    result (prismatic-vlms issue 32).
    """
    if precision == Precision.FLOAT32:
        return MixedPrecisionPolicy()
    param_dtype = torch.bfloat16 if Precision(precision).is_mixed else None
    return MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32)


def shard_model(model: VisionLanguageModel, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Shard the parts of a model that have trainable parameters, in place."""
    parts = (model.tower, model.connector, model.language_model)
    replicated: set[nn.Parameter] = set()
    for part in parts:
        if part is not None and not any(p.requires_grad for p in part.parameters()):
            replicated |= set(part.parameters())
    if any(p.requires_grad for p in model.language_model.parameters()):
        for block in decoder_blocks(model.language_model):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        _shard_vocabulary(model.language_model, mesh, policy)
    if any(p.requires_grad for p in model.connector.parameters()):
        for group in model.connector.sharding_groups():
            fully_shard(group, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=replicated)


def _shard_vocabulary(
    language_model: PreTrainedModel, mesh: DeviceMesh, policy: MixedPrecisionPolicy
) -> None:
    """Make groups of the embeddings and of the output layer, the two largest weights of a model.

    In the root group, nothing could start before both are gathered, and their gradients would be
    kept until everything else is done. Tied weights stay in the root group: they are one parameter,
    which is needed from the first operation to the last.
    """
    embeddings = language_model.get_input_embeddings()
    output_layer = decoder_and_output_layer(language_model)[1]
    if embeddings.weight is output_layer.weight:
        return
    fully_shard(embeddings, mesh=mesh, mp_policy=policy)
    # The backward pass of a lookup does not read the table.
    embeddings.set_unshard_in_backward(unshard_in_backward=False)
    # The backward pass begins where the forward pass ends. The loss is one forward pass of this
    # group: otherwise each of its chunks would gather the layer and reduce its gradients.
    attach_loss(output_layer)
    fully_shard(output_layer, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(output_layer, LOSS_METHOD)


def reduce_gradients(model: FSDPModule, *, is_last: bool, once_per_step: bool) -> None:
    """Choose whether the next backward pass of a sharded model reduces gradients over ranks.

    By default gradients are reduced to shards after every micro-batch, because unsharded ones take
    4 bytes per trained parameter on every rank. Copies on other nodes (HSDP) are added up once per
    step in either case, which needs no memory.

    Args:
        model: Model that `shard_model` has sharded.
        is_last: Whether the next backward pass is the last one of the optimizer step.
        once_per_step: Whether to reduce only in the last backward pass and keep unsharded gradients
            until then.
    """
    model.set_requires_gradient_sync(is_last or not once_per_step)
    model.set_requires_all_reduce(is_last)


def materialise(module: nn.Module, device: torch.device) -> None:
    """Allocate parameters that are on the meta device (uninitialised), sharded or not."""

    def allocate(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor

    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((part, name))
    tied = [places for places in owners.values() if len(places) > 1]
    # Same as to_empty, except that buffers with content keep it.
    module._apply(allocate)  # type: ignore[no-untyped-call]
    for first, *others in tied:  # each owner got memory of its own: tie them again
        for part, name in others:
            setattr(part, name, getattr(*first))


@torch.no_grad()
def fill_tensor(target: torch.Tensor, read: Callable[[tuple[slice, ...]], torch.Tensor]) -> None:
    """Fill a tensor from a reader of slices; a sharded tensor reads only this rank's rows."""
    if not isinstance(target, DTensor):
        target.copy_(read(tuple(slice(0, size) for size in target.shape)))
        return
    local = target.to_local()
    if local.numel() == 0:
        return
    shape, offset = compute_local_shape_and_global_offset(
        target.shape, target.device_mesh, target.placements
    )
    local_slices = tuple(
        slice(start, start + size) for start, size in zip(offset, shape, strict=True)
    )
    local.copy_(read(local_slices))


def load_pretrained(language_model: nn.Module, folder: Path) -> None:
    """Load a language model from a folder of safetensors; a rank reads only its own shards.

    Raises:
        CheckpointError: If a weight is missing or has another shape.
    """
    files = _files_by_name(folder)
    expected = dict(language_model.named_parameters())
    if missing := sorted(expected.keys() - files.keys()):
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing, e.g. {missing[0]}; "
            "they would stay random"
        )
    for file in sorted({files[name] for name in expected}):
        with (
            reading(file, fix=_RESTORE, error_class=CheckpointError),
            safe_open(file, framework="pt") as weights,
        ):
            for name in (name for name in expected if files[name] == file):
                view = weights.get_slice(name)
                if tuple(view.get_shape()) != tuple(expected[name].shape):
                    shapes = tuple(view.get_shape()), tuple(expected[name].shape)
                    raise CheckpointError(f"{file}: '{name}' is {shapes[0]}, expected {shapes[1]}")
                fill_tensor(expected[name], view.__getitem__)


def gather_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor from all ranks (collective); return any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _files_by_name(folder: Path) -> dict[str, Path]:
    """Map each weight name to its file."""
    index, single = folder / _INDEX, folder / _SINGLE
    if index.is_file():
        with reading(index, fix=_RESTORE, error_class=CheckpointError):
            names = json.loads(index.read_bytes())["weight_map"]
            return {name: folder / file for name, file in names.items()}
    if not single.is_file():
        raise CheckpointError(f"{folder} has neither {_SINGLE} nor {_INDEX}")
    with (
        reading(single, fix=_RESTORE, error_class=CheckpointError),
        safe_open(single, framework="pt") as weights,
    ):
        return dict.fromkeys(weights.keys(), single)
