"""Planning of a sharded checkpoint of an 8B model by torch.distributed.checkpoint."""

import dataclasses
import pickle
import time

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu_step.model import SHAPES

_PARTS = ("state_dict", "exp_avg", "exp_avg_sq")
_FLOAT = 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointCost:
    """A checkpoint that all ranks write together."""

    num_files: int
    gib_per_file: float
    """Largest file."""
    local_plan_ms: float
    """CPU time of one rank."""
    global_plan_s: float
    """CPU time of the first rank, which merges the plans of all for the first checkpoint."""
    next_plan_s: float
    """The same for every later checkpoint, for which the plans are kept."""
    gathered_mb: float
    """Size of the plans that the first rank receives."""
    index_mb: float
    """Size of the file that lists where every part is."""


def measure(num_ranks: int) -> CheckpointCost:
    """Plan a checkpoint of weights and two moments, sharded over all ranks."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES["8b"].language_model))
    shapes = {name: value.shape for name, value in model.named_parameters()}
    plans: list[SavePlan] = []
    coordinator, local_s = DefaultSavePlanner(enable_plan_caching=True), 0.0
    # torch keeps plans for the process, which here measures several numbers of ranks.
    for kept in (SavePlanner._cached_all_plans, SavePlanner._cached_save_plan):
        kept.clear()
    for rank in range(num_ranks):
        planner = coordinator if rank == 0 else DefaultSavePlanner()
        state = _sharded_state(shapes, rank, num_ranks)
        planner.set_up_planner(state, None, rank == 0)  # type: ignore[arg-type]
        begin = time.process_time()
        plans.append(planner.create_local_plan())
        local_s += time.process_time() - begin
        dist.destroy_process_group()
    gathered = sum(len(pickle.dumps(plan)) for plan in plans)
    begin = time.process_time()
    _, metadata = coordinator.create_global_plan(plans)
    global_s = time.process_time() - begin
    begin = time.process_time()
    coordinator.create_global_plan([SavePlan([], usable=False)] * num_ranks)
    next_s = time.process_time() - begin
    num_bytes = [_rank_bytes(shapes, rank, num_ranks) for rank in (0, num_ranks - 1)]
    return CheckpointCost(
        num_files=num_ranks,
        gib_per_file=max(num_bytes) / 2**30,
        local_plan_ms=local_s / num_ranks * 1000,
        global_plan_s=global_s,
        next_plan_s=next_s,
        gathered_mb=gathered / 1e6,
        index_mb=len(pickle.dumps(metadata)) / 1e6,
    )


def _sharded_state(
    shapes: dict[str, torch.Size], rank: int, num_ranks: int
) -> dict[str, torch.Tensor]:
    """Return the state of a rank of FSDP2: rows of every parameter, without memory."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
    mesh = init_device_mesh("cpu", (num_ranks,))
    state = {}
    for part in _PARTS:
        for name, shape in shapes.items():
            local = torch.empty((_count_rows(shape, rank, num_ranks), *shape[1:]), device="meta")
            state[f"{part}.{name}"] = DTensor.from_local(
                local,
                mesh,
                [Shard(0)],
                run_check=False,
                shape=shape,
                stride=torch.empty(shape, device="meta").stride(),
            )
    return state


def _count_rows(shape: torch.Size, rank: int, num_ranks: int) -> int:
    per_rank = -(-shape[0] // num_ranks)
    return max(0, min(shape[0], (rank + 1) * per_rank) - rank * per_rank)


def _rank_bytes(shapes: dict[str, torch.Size], rank: int, num_ranks: int) -> int:
    numbers = (
        _count_rows(shape, rank, num_ranks) * int(torch.Size(shape[1:]).numel())
        for shape in shapes.values()
    )
    return len(_PARTS) * _FLOAT * sum(numbers)
