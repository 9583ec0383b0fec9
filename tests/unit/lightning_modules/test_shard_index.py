"""Indexes of sharded checkpoints: torch's own readers find every part."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_modules.shard_index import PartTable, ShardWriter, WrittenParts
from lightning_modules.shard_plan import UniformPlanner

pytestmark = pytest.mark.gpu_path
WHOLE = {
    "ragged": torch.arange(10.0).reshape(5, 2),
    "few": torch.arange(3, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    "wide": torch.arange(24).reshape(8, 3),
}


def write_as(rank: int, shape: tuple[int, ...], writer: ShardWriter) -> Any:
    """Write one rank's parts; return what it reports, and the index if it is the first."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=int(np.prod(shape)))
    mesh = init_device_mesh("cpu", shape)
    placements = [*[Replicate()] * (mesh.ndim - 1), Shard(0)]
    state: dict[str, Any] = {"step": torch.tensor(7), "note": {"text": "kept"}}
    for name, value in WHOLE.items():
        sizes, offsets = compute_local_shape_and_global_offset(value.shape, mesh, placements)
        first = offsets[0] if sizes[0] else 0
        part = value[first : first + sizes[0]]
        state[name] = DTensor.from_local(
            part, mesh, placements, run_check=False, shape=value.shape, stride=value.stride()
        )
    planner = UniformPlanner(rank, mesh.size())
    planner.set_up_planner({"weights": state})
    writer.set_up_storage_writer(rank == 0)
    plan = writer.prepare_local_plan(planner.create_local_plan())
    plans, index = planner.create_global_plan([plan] * mesh.size())
    final = planner.finish_plan(writer.prepare_global_plan(plans)[rank])
    written = writer.write_data(final, planner).value()
    dist.destroy_process_group()
    return written, index


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3)])
def test_torch_reads_what_all_ranks_wrote(tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = tmp_path / "saved"
    writers = [ShardWriter(folder) for _ in range(int(np.prod(shape)))]
    reports = [write_as(rank, shape, writer) for rank, writer in enumerate(writers)]
    assert max(len(written) for written, _ in reports) == 1, "one result for all parts"
    writers[0].finish(reports[0][1], [written for written, _ in reports])

    found: dict[str, Any] = {name: torch.zeros_like(value) for name, value in WHOLE.items()}
    state = {"weights": found | {"step": torch.tensor(0), "note": {"text": ""}}}
    state_dict_loader.load(state, checkpoint_id=folder, no_dist=True)
    assert state["weights"]["note"] == {"text": "kept"}
    assert state["weights"]["step"] == 7
    for name, value in WHOLE.items():
        assert torch.equal(state["weights"][name], value)

    dcp_to_torch_save(folder, tmp_path / "one.pt")
    converted = torch.load(tmp_path / "one.pt")["weights"]
    assert all(torch.equal(converted[name], value) for name, value in WHOLE.items())


def table(*ranks: list[tuple[int, ...]]) -> PartTable:
    """Return the table of an entry "a" with two parts and "b" with one."""
    written = [
        WrittenParts(files=(f"{rank}",), places=np.array(rows, dtype=np.int64).reshape(-1, 5))
        for rank, rows in enumerate(ranks)
    ]
    return PartTable({"a": 2, "b": 1}, written)


def test_parts_that_are_missing_or_written_twice_are_an_error() -> None:
    first, second, other = (0, 0, 0, 0, 8), (0, 1, 0, 8, 4), (1, 0, 0, 0, 2)
    places = table([first], [second, other])
    found = places[MetadataIndex("a", (4,), 1)]
    assert dataclasses.astuple(found)[:3] == ("1", 8, 4)
    assert places[MetadataIndex("b")].relative_path == "1"
    for ranks in ([[first], [second]], [[first, second], [second, other]], [[first, first, other]]):
        with pytest.raises(RuntimeError, match="expected each of 3 once"):
            table(*ranks)


def test_a_rank_without_parts_writes_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "saved")
    writer.set_up_storage_writer(True)
    plan = writer.prepare_global_plan([writer.prepare_local_plan(SavePlan([]))])[0]
    planner = UniformPlanner(0, 1)
    planner.set_up_planner({})
    assert writer.write_data(plan, planner).value() == []
