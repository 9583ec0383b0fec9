"""Compilations of decoder blocks: at most four graphs over all shapes, and no graph break."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from core.precision import Precision
from models.language import attention
from models.language.attention import AttentionKind, use_packed_attention
from models.language.blocks import checkpoint_activations, compile_blocks
from models.sharding import shard_model, sharding_policy
from tests.support.models.tiny_vlm import build_model, one_rank, random_rows, use_varlen_on_cpu

pytestmark = pytest.mark.slow
ROWS = (2, 2, 2, 1, 2, 3, 2, 2, 1, 2, 4, 5)
MAX_GRAPHS = 4
"""The first shape; any length; a single row; any number of rows."""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of nodes of every graph that `compile_blocks` compiles, without code generation."""
    torch._dynamo.reset()
    counters.clear()
    found: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        found.append(len(graph.graph.nodes))
        return graph.forward

    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(real, backend=backend))
    return found


@pytest.mark.parametrize(
    ("kind", "every"),
    [
        (AttentionKind.MASK, 0),
        (AttentionKind.MASK, 1),
        (AttentionKind.VARLEN, 1),
        (AttentionKind.FLEX, 0),
    ],
)
def test_few_graphs_serve_all_shapes_and_blocks(
    kind: AttentionKind, every: int, graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_varlen_on_cpu()
    monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: kind)
    is_flex = kind is AttentionKind.FLEX
    model = build_model(num_layers=6)
    use_packed_attention(model.language_model, kind)
    checkpoint_activations(model.language_model, every=every)
    compile_blocks(model.language_model)
    generator = torch.Generator().manual_seed(0)
    for step, num_rows in enumerate(ROWS):
        num_tokens = int(torch.randint(140, 390, (1,), generator=generator))
        batch = random_rows(num_rows, num_tokens, seed=step, with_branches=is_flex)
        # The CPU kernel of flex attention has no backward pass.
        with torch.set_grad_enabled(not is_flex), torch.autocast("cpu", torch.bfloat16):
            loss = model(batch).loss_sum
        if not is_flex:
            loss.backward()
    assert 0 < len(graphs) <= MAX_GRAPHS
    assert not counters["graph_break"]
    assert not counters["unimplemented"]


def test_fsdp2_compiles_every_block_once(graphs: list[int]) -> None:
    """Blocks are compiled before they are sharded; gathering them stays outside of the graphs."""
    model = build_model(num_layers=6)
    checkpoint_activations(model.language_model, every=2)
    compile_blocks(model.language_model)
    with one_rank() as mesh:
        shard_model(model, mesh, sharding_policy(Precision.BF16_MIXED))
        for step, num_rows in enumerate(ROWS[:6]):
            model(random_rows(num_rows, 40 + step, seed=step)).loss_sum.backward()
    # Blocks with and without recomputed activations differ.
    assert 0 < len(graphs) <= 2 * MAX_GRAPHS
    assert not counters["graph_break"]


def test_ddp_compiles_every_block_once(graphs: list[int]) -> None:
    """torch's optimizer for DDP would split blocks with trained weights at its buckets."""
    model = build_model(num_layers=6)
    compile_blocks(model.language_model)

    class Losses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Any) -> torch.Tensor:
            loss: torch.Tensor = self.model(batch).loss_sum
            return loss

    with one_rank():
        replica = DistributedDataParallel(Losses(), bucket_cap_mb=0.02)
        for step, num_rows in enumerate(ROWS[:6]):
            replica(random_rows(num_rows, 40 + step, seed=step)).backward()
    assert 0 < len(graphs) <= MAX_GRAPHS
    assert not counters["graph_break"]
