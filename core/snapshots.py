"""Copies of a training state, taken between two steps and written while training goes on."""

import copy
from typing import Any

import torch


def copy_to_cpu(tree: Any) -> Any:
    """A tree of containers whose tensors are copies on the CPU."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().cpu() if tree.device.type != "cpu" else tree.detach().clone()
    if isinstance(tree, dict):
        return {key: copy_to_cpu(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [copy_to_cpu(value) for value in tree]
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple(copy_to_cpu(value) for value in tree)
    return copy.deepcopy(tree)


def count_bytes(tree: Any) -> int:
    """Bytes of the tensors in a tree of containers."""
    if isinstance(tree, torch.Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(count_bytes(value) for value in tree.values())
    return sum(count_bytes(value) for value in tree) if isinstance(tree, list | tuple) else 0
