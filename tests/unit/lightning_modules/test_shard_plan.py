"""Checkpoint plans by formula, against torch's plans merged from all ranks."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_modules import shard_plan
from lightning_modules.shard_plan import UniformPlanner, choose_planner

pytestmark = pytest.mark.gpu_path


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A tensor of the state."""

    size: tuple[int, ...]
    is_sharded: bool
    is_double: bool


SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)
ENTRIES = st.builds(Entry, size=SIZES, is_sharded=st.booleans(), is_double=st.booleans())


def sharded(mesh: Any, size: tuple[int, ...], dtype: torch.dtype, placement: Any) -> DTensor:
    """Return this rank's part of a tensor, on a mesh of one or two dimensions."""
    placements = [*[Replicate()] * (mesh.ndim - 1), placement]
    whole = torch.empty(size, dtype=dtype)
    local, _ = compute_local_shape_and_global_offset(whole.shape, mesh, placements)
    part = torch.zeros(local, dtype=dtype)
    return DTensor.from_local(
        part, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


Planned = tuple[list[SavePlan], Metadata]


def plan_all(
    entries: list[Entry], shape: tuple[int, ...], dimension: int = 0
) -> tuple[Planned, Planned]:
    """Return what every rank writes and the index, by torch and by formula, without the ranks."""
    planners: tuple[list[SavePlanner], list[SavePlanner]] = ([], [])
    world_size, kept = math.prod(shape), list[list[SavePlan]]()
    for rank in range(world_size):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
        mesh = init_device_mesh("cpu", shape)
        state: dict[str, Any] = {"names": ["a"], "step": {"count": torch.tensor(3.0), "rate": 0.1}}
        for number, entry in enumerate(entries):
            dtype = torch.float64 if entry.is_double else torch.bfloat16
            placement = Shard(dimension) if entry.is_sharded else Replicate()
            state[f"part.{number}"] = sharded(mesh, entry.size, dtype, placement)
        by_formula = UniformPlanner(rank, world_size)
        for planner, all_ranks in zip((DefaultSavePlanner(), by_formula), planners, strict=True):
            planner.set_up_planner(state, is_coordinator=rank == 0)
            all_ranks.append(planner)
        assert by_formula.digest
        plans = [planner[-1].create_local_plan() for planner in planners]
        kept.append(plans)
        dist.destroy_process_group()
    results = []
    for number, all_ranks in enumerate(planners):
        merged, index = all_ranks[0].create_global_plan([plans[number] for plans in kept])
        pairs = zip(all_ranks, merged, strict=True)
        results.append(([planner.finish_plan(plan) for planner, plan in pairs], index))
    return results[0], results[1]


def parts_of(index: Metadata, name: str) -> list[Any]:
    """Return the parts of an entry that are not empty, sorted."""
    entry = index.state_dict_metadata[name]
    chunks = entry.chunks if isinstance(entry, TensorStorageMetadata) else []
    found = [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in chunks]
    return sorted(part for part in found if 0 not in part[1])


def num_bytes(plan: SavePlan) -> int:
    """Return the bytes of the tensors that a rank writes."""
    data = [item.tensor_data for item in plan.items if item.tensor_data is not None]
    return sum(part.chunk.sizes.numel() * part.properties.dtype.itemsize for part in data)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(ENTRIES, min_size=1, max_size=6), st.integers(1, 5), st.integers(1, 2))
def test_plans_equal_those_that_torch_merges(
    entries: list[Entry], num_shards: int, replicas: int
) -> None:
    shape = (num_shards,) if replicas == 1 else (replicas, num_shards)
    (expected, expected_index), (found, index) = plan_all(entries, shape)
    assert index.planner_data == expected_index.planner_data
    assert set(index.state_dict_metadata) == set(expected_index.state_dict_metadata)
    for name, entry in expected_index.state_dict_metadata.items():
        ours = index.state_dict_metadata[name]
        assert type(ours) is type(entry)
        assert parts_of(index, name) == parts_of(expected_index, name)
        if isinstance(entry, TensorStorageMetadata) and isinstance(ours, TensorStorageMetadata):
            assert (ours.size, ours.properties) == (entry.size, entry.properties)

    def written(plans: list[SavePlan]) -> Counter[Any]:
        items = [item for plan in plans for item in plan.items]
        return Counter(
            (item.index.fqn, item.index.offset, item.type)
            for item in items
            if item.tensor_data is None or 0 not in item.tensor_data.chunk.sizes
        )

    assert written(found) == written(expected), "every part is written once"
    for item in (item for plan in found for item in plan.items if item.tensor_data is not None):
        entry = index.state_dict_metadata[item.index.fqn]
        assert isinstance(entry, TensorStorageMetadata)
        assert entry.chunks[item.index.index or 0] == item.tensor_data.chunk
    if replicas == 1:
        whole = sum(
            math.prod(e.size) * (8 if e.is_double else 2) for e in entries if not e.is_sharded
        )
        heaviest = max(map(num_bytes, expected))
        assert max(map(num_bytes, found)) <= heaviest + whole + 4


def test_shards_along_other_dimensions() -> None:
    entries = [Entry(size=(3, 10), is_sharded=True, is_double=False)]
    for shape in ((4,), (2, 3)):
        (_, expected), (_, index) = plan_all(entries, shape, dimension=1)
        assert parts_of(index, "part.0") == parts_of(expected, "part.0")


@pytest.fixture
def one_of_four() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield
    dist.destroy_process_group()


def digest(**state: Any) -> str:
    """Return what rank 1 of 4 tells the others."""
    planner = UniformPlanner(1, 4)
    planner.set_up_planner(state)
    return planner.digest


@pytest.mark.usefixtures("one_of_four")
def test_other_ways_to_shard_have_no_digest() -> None:
    """Two sharded dimensions, interleaved shards, and a tensor on half of the ranks."""
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    rows, columns = Shard(0), Shard(1)
    strided = _StridedShard(0, split_factor=2)
    assert digest(a=sharded(square, (8, 4), torch.float32, rows))
    for mesh, placements in [
        (square, [rows, columns]),
        (square, [Replicate(), strided]),
        (square["columns"], [rows]),
    ]:
        part = DTensor.from_local(torch.zeros(2, 4), mesh, placements, run_check=False)
        assert digest(a=part) == ""


@pytest.mark.usefixtures("one_of_four")
def test_the_digest_follows_names_shapes_types_and_layout() -> None:
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    states: list[dict[str, Any]] = [
        {"a": sharded(line, (8, 4), torch.float32, Shard(0))},
        {"b": sharded(line, (8, 4), torch.float32, Shard(0))},
        {"a": sharded(line, (8, 5), torch.float32, Shard(0))},
        {"a": sharded(line, (8, 4), torch.float64, Shard(0))},
        {"a": sharded(line, (8, 4), torch.float32, Shard(1))},
        {"a": sharded(line, (8, 4), torch.float32, Replicate())},
        {"a": sharded(square, (8, 4), torch.float32, Shard(0))},
        {"a": sharded(line, (8, 4), torch.float32, Shard(0)), "step": 1},
    ]
    found = [digest(**state) for state in states]
    assert len(set(found)) == len(states)
    assert digest(**states[0]) == found[0]


def test_ranks_that_differ_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    group = dist.group.WORLD
    assert group is not None
    parts = {"state_dict": {"a": torch.zeros(3)}}
    assert isinstance(choose_planner(parts, group), UniformPlanner)
    assert not caplog.records

    def gather(digests: list[str], digest: str, group: Any) -> None:
        del group
        digests[:] = [digest, "another"]

    monkeypatch.setattr(shard_plan.dist, "all_gather_object", gather)
    planner = choose_planner(parts, group)
    dist.destroy_process_group()
    assert type(planner) is DefaultSavePlanner
    assert "merged by the first rank" in caplog.text
