"""Planning and index of a sharded checkpoint of an 8B model."""

import dataclasses
import pickle
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu_step.model import SHAPES
from lightning_modules.shard_index import ShardWriter, pack_results
from lightning_modules.shard_plan import UniformPlanner

_PARTS = ("state_dict", "exp_avg", "exp_avg_sq")
_FLOAT = 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointCost:
    """A checkpoint that all ranks write together."""

    num_files: int
    gib_per_file: float
    """Largest file."""
    plan_ms: float
    """CPU time in which a rank derives the parts of all ranks and what it writes itself."""
    list_parts_s: float
    """CPU time in which the first rank lists them in the index."""
    gathered_mb: float
    """Size of what the ranks exchange before they write."""
    results_mb: float
    """Size of the places of all parts in the files, which the first rank receives afterwards."""
    results_s: float
    """CPU time in which it unpickles them, adds them to the index, and pickles the index."""
    index_mb: float
    """Size of the file that lists where every part is."""
    read_index_s: float
    """CPU time in which every rank reads this file when a run is resumed."""


def measure(num_ranks: int) -> CheckpointCost:
    """Plan a checkpoint of weights and two moments, sharded over all ranks."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES["8b"].language_model))
    shapes = {name: value.shape for name, value in model.named_parameters()}
    rank = num_ranks // 2
    state = _sharded_state(shapes, rank, num_ranks)
    clock = _Clock()
    planner = UniformPlanner(rank, num_ranks)
    planner.set_up_planner(state)
    local = planner.create_local_plan()
    planner.finish_plan(local)
    plan_s = clock.seconds()
    _, index = planner.create_global_plan([local] * num_ranks)
    list_s = clock.seconds()
    dist.destroy_process_group()
    gathered = [pickle.dumps((planner.digest, local)) for _ in range(num_ranks)]
    numbers = {name: number for number, name in enumerate(index.state_dict_metadata)}
    packed = (pack_results(written, numbers) for written in _written(index, num_ranks) if written)
    results = [pickle.dumps([result]) for result in packed]
    with tempfile.TemporaryDirectory() as folder:
        clock = _Clock()
        ShardWriter(Path(folder)).finish(index, [pickle.loads(result) for result in results])
        results_s = clock.seconds()
        index_bytes = (Path(folder) / ".metadata").stat().st_size
        clock = _Clock()
        FileSystemReader(folder).read_metadata()
        read_s = clock.seconds()
    num_bytes = [_rank_bytes(shapes, number, num_ranks) for number in (0, num_ranks - 1)]
    return CheckpointCost(
        num_files=num_ranks,
        gib_per_file=max(num_bytes) / 2**30,
        plan_ms=plan_s * 1000,
        list_parts_s=list_s,
        gathered_mb=sum(map(len, gathered)) / 1e6,
        results_mb=sum(map(len, results)) / 1e6,
        results_s=results_s,
        index_mb=index_bytes / 1e6,
        read_index_s=read_s,
    )


class _Clock:
    """CPU time since the last question."""

    def __init__(self) -> None:
        self._begin = time.process_time()

    def seconds(self) -> float:
        """Return the CPU time since the last call."""
        begin, self._begin = self._begin, time.process_time()
        return self._begin - begin


def _written(index: Metadata, num_ranks: int) -> list[list[WriteResult]]:
    """Return what each rank reports after it has written its file, as torch's file writer does."""
    results: list[list[WriteResult]] = [[] for _ in range(num_ranks)]
    ends = [0] * num_ranks
    for name, entry in index.state_dict_metadata.items():
        chunks = entry.chunks if isinstance(entry, TensorStorageMetadata) else []
        for number, chunk in enumerate(chunks):
            length = _FLOAT * chunk.sizes.numel()
            place = _StorageInfo(f"__{number}_0.distcp", ends[number], length)
            ends[number] += length
            results[number].append(
                WriteResult(
                    index=MetadataIndex(name, chunk.offsets, number),
                    size_in_bytes=length,
                    storage_data=place,
                )
            )
    return results


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
