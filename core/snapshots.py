"""Copies of a training state, taken between two steps and written while training continues."""

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves, tree_map


def copy_to_cpu(tree: Any, *, shared_with: Iterable[torch.Tensor] | None = None) -> Any:
    """Copy a tree of containers and move its tensors to the CPU.

    Args:
        tree: State to copy, of any containers.
        shared_with: The tensors that training will change, if the caller knows all of them. CPU
            tensors that share no memory with them are copies already and are taken as they are: a
            sharded state on a GPU arrives as such, and a second copy would double the host memory.
    """
    live = None if shared_with is None else {_address(tensor) for tensor in shared_with}
    return tree_map(partial(_copy_leaf, live=live), tree)


def count_bytes(tree: Any) -> int:
    """Count the bytes of all tensors in a tree of containers (of sharded ones, the local part)."""
    tensors = (_local(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _copy_leaf(leaf: Any, *, live: set[int] | None) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return copy.deepcopy(leaf)
    if leaf.device.type != "cpu":
        return leaf.detach().cpu()
    is_shared = live is None or _address(leaf) in live
    return leaf.detach().clone() if is_shared else leaf.detach()


def _address(tensor: torch.Tensor) -> int:
    """Return the address of a tensor's memory, which all of its views share."""
    return _local(tensor).untyped_storage().data_ptr()


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
