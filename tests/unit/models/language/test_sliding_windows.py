"""Packed rows of language models whose layers see a window of positions only."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from core.samples import MicroBatch
from models.language.attention import AttentionKind, attention_inputs, use_packed_attention
from tests.support.models.tiny_vlm import VOCABULARY, packed

_WINDOW = 4
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": _WINDOW,
    "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip


def _qwen2() -> PreTrainedModel:
    """Build a model whose last two layers have a window."""
    return Qwen2ForCausalLM(Qwen2Config(**_SIZES, use_sliding_window=True, max_window_layers=1))


def _mistral() -> PreTrainedModel:
    """Build a model whose layers all have a window."""
    return MistralForCausalLM(MistralConfig(**_SIZES))


def _gemma3() -> PreTrainedModel:
    layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**_SIZES, layer_types=layer_types))


@pytest.mark.parametrize("kind", [AttentionKind.MASK, AttentionKind.DOCUMENTS])
@pytest.mark.parametrize("build", [_qwen2, _mistral, _gemma3])
def test_packed_documents_equal_single_ones(build: Any, kind: AttentionKind) -> None:
    torch.manual_seed(0)
    model, batch = build().eval(), packed(with_branches=False)
    expected = _alone(model, batch)
    use_packed_attention(model, kind)
    inputs = attention_inputs(batch, kind, torch.float32, model.config)
    found_BTD = model.base_model(
        input_ids=batch.input_ids_BT,
        position_ids=batch.position_ids_BT,
        use_cache=False,
        **inputs,
    ).last_hidden_state
    for start, hidden_LD in expected.items():
        found_LD = found_BTD.flatten(0, 1)[start : start + len(hidden_LD)]
        torch.testing.assert_close(found_LD, hidden_LD, rtol=1e-4, atol=1e-5)


def test_windows_of_branches_count_from_the_shared_part() -> None:
    batch = packed(with_branches=True)  # the branches of the second row start at places 6 and 12
    positions_BT = batch.position_ids_BT.clone()
    positions_BT[1, 12:20] -= 6
    batch = dataclasses.replace(batch, position_ids_BT=positions_BT)
    config = MistralConfig(**_SIZES)
    (mask_BTT,) = attention_inputs(batch, AttentionKind.MASK, torch.float32, config)[
        "attention_mask"
    ].unbind(1)
    seen = (mask_BTT[1, 12] == 0).nonzero().flatten().tolist()
    assert seen == [3, 4, 5, 12]


def test_rows_within_the_window_have_one_mask() -> None:
    batch = packed(with_branches=False)
    config = Qwen2Config(**_SIZES | {"sliding_window": 24}, use_sliding_window=True)
    assert torch.is_tensor(
        attention_inputs(batch, AttentionKind.MASK, torch.float32, config)["attention_mask"]
    )


@torch.no_grad()
def _alone(model: PreTrainedModel, batch: MicroBatch) -> dict[int, torch.Tensor]:
    """Return the hidden states (L, D) of each document by its start, from the model's forward."""
    bounds = batch.document_starts.tolist()
    ids_N = batch.input_ids_BT.flatten()
    return {
        start: model.base_model(input_ids=ids_N[None, start:stop]).last_hidden_state[0]
        for start, stop in itertools.pairwise(bounds)
    }
