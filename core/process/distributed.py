"""Rank arithmetic that works with and without a process group."""

import os

import torch
import torch.distributed as dist


def is_initialized() -> bool:
    """Whether a process group is up."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """This process's global rank (0 without a process group)."""
    return dist.get_rank() if is_initialized() else 0


def get_world_size() -> int:
    """Number of processes (1 without a process group)."""
    return dist.get_world_size() if is_initialized() else 1


def is_first_process() -> bool:
    """Whether this process will be rank 0; known before there is a process group.

    Lightning, torchrun and our SLURM jobs say so in the environment.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return (node, os.environ.get("LOCAL_RANK", "0")) == ("0", "0")


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all ranks; the input is left as it is."""
    total = values.clone()
    if is_initialized():
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def any_rank(*, flag: bool, device: torch.device) -> bool:
    """Whether the flag is up on any rank; every rank gets the same answer."""
    value = torch.tensor([int(flag)], dtype=torch.int32, device=device)
    if is_initialized():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())
