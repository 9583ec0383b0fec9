"""Names of the environment variables that launchers read and set."""

import os
from enum import StrEnum

CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


class ClusterVariable(StrEnum):
    """Variables from which Lightning learns the node of a process and where the ranks meet."""

    NODE_RANK = "NODE_RANK"
    MASTER_ADDR = "MASTER_ADDR"
    MASTER_PORT = "MASTER_PORT"


class SlurmVariable(StrEnum):
    """Variables that SLURM sets in a job."""

    NUM_NODES = "SLURM_NNODES"
    NODE_LIST = "SLURM_JOB_NODELIST"
    NODE_NAME = "SLURMD_NODENAME"
    NODE_INDEX = "SLURM_NODEID"
    JOB_ID = "SLURM_JOB_ID"
    RESTART_COUNT = "SLURM_RESTART_COUNT"


class TorchrunVariable(StrEnum):
    """Variables that torchrun sets in every rank."""

    RANK = "RANK"
    LOCAL_RANK = "LOCAL_RANK"
    GROUP_RANK = "GROUP_RANK"
    WORLD_SIZE = "WORLD_SIZE"
    LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE"
    GROUP_WORLD_SIZE = "GROUP_WORLD_SIZE"
    RUN_ID = "TORCHELASTIC_RUN_ID"
    RESTART_COUNT = "TORCHELASTIC_RESTART_COUNT"
    USE_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"


DISTRIBUTED_VARIABLES = frozenset(
    {
        TorchrunVariable.RANK,
        TorchrunVariable.LOCAL_RANK,
        TorchrunVariable.GROUP_RANK,
        TorchrunVariable.WORLD_SIZE,
        TorchrunVariable.LOCAL_WORLD_SIZE,
        TorchrunVariable.GROUP_WORLD_SIZE,
        TorchrunVariable.RUN_ID,
    }
)
"""Variables that libraries use to detect a distributed run; a single-process run has none."""

RANK_VARIABLES = DISTRIBUTED_VARIABLES | frozenset(ClusterVariable)
"""Variables that make a process a rank; of a rank of its own, a launcher sets them."""

_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""glibc asks for huge pages where the system gives them on request, the default of most.

Every step on the CPU allocates its tensors again, and in virtual machines the first access to a
page of 4 KiB can be slow: training there is 1.1 to 2.2 times as fast. The numbers are the same.
"""


def allocator_settings() -> dict[str, str]:
    """Return the variables for the memory of a stage run that the user has not set."""
    return {name: value for name, value in _HUGE_PAGES.items() if name not in os.environ}
