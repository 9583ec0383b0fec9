"""Ranks that are planned in different groups run equally many micro-batches."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core.samples import MicroBatch, empty_micro_batch
from datamodules.batches.packing import GROUP_RANKS
from lightning_modules import vlm_module
from lightning_modules.vlm_module import VlmModule
from tests.support.models.tiny_vlm import build_model, loss_and_gradients, packed


def test_an_empty_micro_batch_adds_nothing_to_loss_and_gradients() -> None:
    loss, *gradients = loss_and_gradients(build_model(), empty_micro_batch())
    assert float(loss) == 0.0
    assert not any(gradient.any() for gradient in gradients)


def equally_many(world_size: int) -> list[MicroBatch]:
    module = SimpleNamespace(
        trainer=SimpleNamespace(world_size=world_size), device=torch.device("cpu")
    )
    own = [packed(with_branches=False)] * 2
    return list(VlmModule._equally_many(module, own))  # type: ignore[arg-type]


def test_ranks_with_fewer_micro_batches_add_empty_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm_module, "max_over_ranks", lambda value, device: value + 1)
    assert len(equally_many(GROUP_RANKS)) == 2, "one group: nothing to agree on"
    first, second, added = equally_many(GROUP_RANKS + 1)
    assert first.samples == second.samples
    assert not added.samples


_RANK = """
import sys, torch, torch.distributed as dist
from core.process.distributed import any_rank, max_over_ranks
rank, path = int(sys.argv[1]), sys.argv[2]
store = dist.FileStore(path, 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
cpu = torch.device("cpu")
print(max_over_ranks(3 + 4 * rank, cpu), any_rank(flag=rank == 1, device=cpu))
"""


@pytest.mark.slow
def test_the_largest_value_is_known_to_both_ranks(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [rank.communicate(timeout=120)[0].strip() for rank in ranks] == ["7 True"] * 2
