"""A micro-batch never asks the device for a value: every such question would stop the host.

Fake tensors have no values. An operation whose result the host needs (`item`, `nonzero`, a boolean
index, a tensor in an `if`) therefore raises instead of waiting.
"""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from core.samples import MicroBatch, find_placeholders
from lightning_modules.source_losses import SourceLosses
from models.language import attention
from models.language.attention import AttentionKind, use_packed_attention
from models.language.blocks import checkpoint_activations
from tests.support.models.tiny_vlm import IMAGE, build_model, packed

pytestmark = pytest.mark.gpu_path

CASES = [
    (AttentionKind.MASK, False),
    (AttentionKind.MASK, True),
    (AttentionKind.VARLEN, False),
    (AttentionKind.FLEX, True),
]


def fake_batch(batch: MicroBatch, mode: FakeTensorMode) -> MicroBatch:
    """Return a batch whose tensors have shapes and types only."""
    tensors = {
        field.name: mode.from_tensor(value)
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), torch.Tensor)
    }
    return dataclasses.replace(batch, **tensors)


def flex_without_kernel(*parts: torch.Tensor, **_: object) -> torch.Tensor:
    """Depend on all parts, in the shape of the queries."""
    return parts[0] + parts[1].sum() + parts[2].sum()


@pytest.mark.slow
@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize(("kind", "with_branches"), CASES)
def test_a_micro_batch_needs_no_value_on_the_host(
    kind: AttentionKind,
    monkeypatch: pytest.MonkeyPatch,
    *,
    with_branches: bool,
    with_image: bool,
) -> None:
    name = "transformers.integrations.flex_attention.compile_friendly_flex_attention"
    monkeypatch.setattr(name, flex_without_kernel)
    monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: kind)
    with FakeTensorMode() as mode:
        model = build_model()
        model.attention, model.loss_chunk = kind, 8
        use_packed_attention(model.language_model, kind)
        checkpoint_activations(model.language_model, every=2)
    batch = fake_batch(packed(with_branches=with_branches, with_image=with_image), mode)
    with mode, torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)
        loss.loss_sum.backward()
        losses = SourceLosses()
        losses.begin({"s": "eu"}, torch.device("cpu"))
        losses.add(batch, loss.token_losses_K)
        losses.end_step(losses.count_tokens([batch]))
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_fake_tensors_find_what_waits() -> None:
    """Otherwise the test above could not fail."""
    batch = packed(with_branches=False)
    with FakeTensorMode() as mode:
        ids_BT = fake_batch(batch, mode).input_ids_BT
        with pytest.raises(DynamicOutputShapeException):
            find_placeholders(ids_BT, IMAGE)
        with pytest.raises(DataDependentOutputException):
            int((ids_BT == IMAGE).sum())
