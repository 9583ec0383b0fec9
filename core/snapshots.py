"""Copies of a training state, taken between two steps and written while training continues."""

import copy
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map


def copy_to_cpu(tree: Any) -> Any:
    """Copy a tree of containers and move its tensors to the CPU."""
    return tree_map(_copy_leaf, tree)


def count_bytes(tree: Any) -> int:
    """Count the bytes of all tensors in a tree of containers."""
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _copy_leaf(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return copy.deepcopy(leaf)
    return leaf.detach().cpu() if leaf.device.type != "cpu" else leaf.detach().clone()
