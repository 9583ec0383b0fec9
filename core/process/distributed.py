"""Ranks and reductions that work with and without a process group."""

import os

import torch
import torch.distributed as dist


def is_initialized() -> bool:
    """Return whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Return the global rank of this process (0 without a process group)."""
    return dist.get_rank() if is_initialized() else 0


def get_world_size() -> int:
    """Return the number of processes (1 without a process group)."""
    return dist.get_world_size() if is_initialized() else 1


def is_first_process() -> bool:
    """Return whether this process will be rank 0, before there is a process group.

    Lightning, torchrun and our SLURM jobs set the environment variables that this reads.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return (node, os.environ.get("LOCAL_RANK", "0")) == ("0", "0")


def local_rank() -> int:
    """Return the index of this process among those of its node, before there is a process group."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all ranks; the input is not modified."""
    total = values.clone()
    if is_initialized():
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def max_over_ranks(value: int, device: torch.device) -> int:
    """Return the largest value over all ranks."""
    largest = torch.tensor([value], dtype=torch.int64, device=device)
    if is_initialized():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest.item())


def any_rank(*, flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set on any rank; the result is the same on all ranks."""
    return bool(max_over_ranks(int(flag), device))
