"""Types of queries, keys and values at the attention kernels, under every kind of weights."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch.distributed.fsdp import fully_shard

from core.precision import Precision
from models.language import attention
from models.language.attention import AttentionKind, use_packed_attention
from models.language.blocks import decoder_blocks
from models.sharding import sharding_policy
from models.vlm import VisionLanguageModel
from tests.support.models.tiny_vlm import build_model, one_rank, packed, use_varlen_on_cpu

pytestmark = pytest.mark.gpu_path

WEIGHTS = ["float32", "bfloat16", "fsdp2"]


@contextlib.contextmanager
def model_with(weights: str) -> Iterator[VisionLanguageModel]:
    """Build a model whose weights are held as in one of the strategies."""
    model = build_model()
    if weights == "bfloat16":
        model.language_model.to(torch.bfloat16)
    if weights != "fsdp2":
        yield model
        return
    policy = sharding_policy(Precision.BF16_MIXED)
    with one_rank() as mesh:
        for block in decoder_blocks(model.language_model):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        yield model


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", [AttentionKind.VARLEN, AttentionKind.FLEX])
def test_kernels_get_one_16_bit_type(
    kind: AttentionKind, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With float32 weights, rotary embeddings promote queries and keys, but not values."""
    use_varlen_on_cpu()
    monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: kind)
    seen: list[set[torch.dtype]] = []

    def flex(*parts: torch.Tensor, **_: object) -> torch.Tensor:
        seen.append({part.dtype for part in parts[:3]})
        return parts[0].clone()

    name = "transformers.integrations.flex_attention.compile_friendly_flex_attention"
    monkeypatch.setattr(name, flex)
    real = attention.varlen_attention

    def varlen(*parts: torch.Tensor, **options: object) -> torch.Tensor:
        seen.append({part.dtype for part in parts[:3]})
        return real(*parts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "varlen_attention", varlen)
    with model_with(weights) as model, torch.autocast("cpu", torch.bfloat16):
        use_packed_attention(model.language_model, kind)
        loss = model(packed(with_branches=False)).loss_sum
        assert loss.isfinite()
    assert seen == [{torch.bfloat16}] * 3
