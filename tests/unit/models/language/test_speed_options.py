"""Speed and memory options: attention kernels, recomputed and compiled blocks, chunked loss."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from configuration.trainer import Accelerator
from core.errors import ConfigError
from lightning_modules.compute import ComputeConfig
from models.language import attention
from models.language.attention import AttentionKind, attention_inputs, use_packed_attention
from models.language.blocks import checkpoint_activations, compile_blocks, decoder_blocks
from models.loss import summed_cross_entropy
from pipeline.trainer import apply_compute
from tests.support.models.tiny_vlm import (
    VOCABULARY,
    build_model,
    loss_and_gradients,
    packed,
    use_varlen_on_cpu,
)


def test_varlen_attention_equals_masked_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares losses and gradients; a reference takes the place of the operator's kernel."""
    use_varlen_on_cpu()
    batch = packed(with_branches=False)
    expected = loss_and_gradients(build_model(), batch)
    model = build_model()
    use_packed_attention(model.language_model, AttentionKind.VARLEN)
    monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: AttentionKind.VARLEN)
    model.attention = AttentionKind.VARLEN
    torch.testing.assert_close(loss_and_gradients(model, batch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_branches", [False, True])
def test_attention_by_document_equals_masked_attention(*, with_branches: bool) -> None:
    """Documents with branches fall back to the mask."""
    batch = packed(with_branches=with_branches, with_image=True)
    expected = loss_and_gradients(build_model(), batch)
    model = build_model()
    use_packed_attention(model.language_model, AttentionKind.DOCUMENTS)
    model.attention = AttentionKind.DOCUMENTS
    has_mask = torch.is_tensor(
        attention_inputs(batch, model.attention, torch.float32)["attention_mask"]
    )
    assert has_mask is with_branches
    torch.testing.assert_close(loss_and_gradients(model, batch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("with_branches", [False, True])
def test_flex_attention_equals_masked_attention(
    monkeypatch: pytest.MonkeyPatch, *, with_branches: bool
) -> None:
    """Forward pass only, with torch's uncompiled reference: kernel and backward need a GPU."""
    from torch.nn.attention.flex_attention import flex_attention

    def uncompiled(*parts: torch.Tensor, training: bool, **options: Any) -> Any:
        assert not training
        return flex_attention(*parts, **options)

    name = "transformers.integrations.flex_attention.compile_friendly_flex_attention"
    batch = packed(with_branches=with_branches)
    with torch.no_grad():
        expected = build_model()(batch).loss_sum
        monkeypatch.setattr(name, uncompiled)
        monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: AttentionKind.FLEX)
        model = build_model()
        use_packed_attention(model.language_model, AttentionKind.FLEX)
        model.attention = AttentionKind.FLEX
        torch.testing.assert_close(model(batch).loss_sum, expected, rtol=1e-5, atol=1e-5)


def test_the_kernel_depends_on_device_dtype_and_batch() -> None:
    cpu, gpu, auto = torch.device("cpu"), torch.device("cuda"), AttentionKind.AUTO
    half = torch.bfloat16
    assert attention.choose_kernel(auto, cpu, half, has_branches=False) is AttentionKind.MASK
    assert attention.choose_kernel(auto, gpu, half, has_branches=False) is AttentionKind.VARLEN
    assert attention.choose_kernel(auto, gpu, half, has_branches=True) is AttentionKind.FLEX
    assert (
        attention.choose_kernel(auto, gpu, torch.float32, has_branches=False) is AttentionKind.FLEX
    )
    for kind in (AttentionKind.FLEX, AttentionKind.VARLEN):
        with pytest.raises(ConfigError, match="needs CUDA"):
            attention.choose_kernel(kind, cpu, half, has_branches=False)
    asked = attention.choose_kernel(AttentionKind.MASK, gpu, half, has_branches=False)
    assert asked is AttentionKind.MASK


def test_documents_start_at_id_changes_and_row_starts() -> None:
    batch = packed(with_branches=False)
    assert batch.document_starts.tolist() == [0, 7, 19, 22, 24, 44, 48]
    assert batch.longest_document == 20


def test_a_model_with_sliding_windows_needs_the_mask() -> None:
    model = build_model()
    model.language_model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ConfigError, match="sliding_attention"):
        use_packed_attention(model.language_model, AttentionKind.FLEX)
    use_packed_attention(model.language_model, AttentionKind.MASK)


@pytest.mark.parametrize(("every", "number"), [(0, 0), (1, 3), (2, 2)])
def test_recomputed_blocks_give_the_same_gradients(every: int, number: int) -> None:
    batch = packed(with_branches=True)
    expected = loss_and_gradients(build_model(), batch)
    model = build_model()
    assert checkpoint_activations(model.language_model, every=every) == number
    with saved_bytes() as count:
        found = loss_and_gradients(model, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with saved_bytes() as plain:
        loss_and_gradients(build_model(), batch)
    assert (count() < plain()) == (number > 0)


class saved_bytes:
    """Counts the tensors that autograd saves for the backward pass."""

    def __enter__(self) -> Callable[[], int]:
        self.total = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)
        self.hooks.__enter__()
        return lambda: self.total

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.total += tensor.numel() * tensor.element_size()
        return tensor

    def __exit__(self, *args: object) -> None:
        self.hooks.__exit__(None, None, None)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradients() -> None:
    """Up to 1e-5 of each tensor, because small entries of a gradient are sums of large ones."""
    batch = packed(with_branches=True)
    expected = loss_and_gradients(build_model(), batch)
    model = build_model()
    names = set(model.state_dict())
    compile_blocks(model.language_model)
    found = loss_and_gradients(model, batch)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.dist(ours, theirs) <= 1e-5 * theirs.norm()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    assert set(model.state_dict()) == names
    for block in decoder_blocks(model.language_model):
        assert block._compiled_call_impl is not None


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_a_chunked_loss_equals_the_whole_loss(chunk: int) -> None:
    torch.manual_seed(1)
    hidden_BTD = torch.randn(2, 24, 32, requires_grad=True)
    layer = torch.nn.Linear(32, VOCABULARY, bias=False)
    batch = packed(with_branches=False)
    results = []
    for size in (0, chunk):
        hidden_BTD.grad = layer.weight.grad = None
        loss = summed_cross_entropy(
            hidden_BTD, batch.labels_BT, batch.loss_positions_K, layer, chunk=size
        )
        loss.loss_sum.backward()
        assert hidden_BTD.grad is not None
        assert layer.weight.grad is not None
        results.append([loss.loss_sum.detach(), hidden_BTD.grad, layer.weight.grad.clone()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


def test_a_chunked_loss_never_stores_all_logits() -> None:
    largest = 0

    def output_layer(hidden_KD: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, hidden_KD.shape[0])
        return hidden_KD @ torch.ones(32, VOCABULARY)

    hidden_BTD = torch.randn(2, 24, 32, requires_grad=True)
    batch = packed(with_branches=False)
    loss = summed_cross_entropy(
        hidden_BTD, batch.labels_BT, batch.loss_positions_K, output_layer, chunk=5
    )
    loss.loss_sum.backward()
    assert largest == 5


def test_attention_on_a_cpu_uses_a_mask() -> None:
    inputs = attention_inputs(packed(with_branches=False), AttentionKind.AUTO, torch.float32)
    assert inputs["attention_mask"].shape == (2, 1, 24, 24)


def test_compiled_blocks_do_not_depend_on_the_lengths_of_documents() -> None:
    """Otherwise they would be compiled again for every micro-batch."""
    model = build_model()
    compute = ComputeConfig(attention=AttentionKind.DOCUMENTS, compile_blocks=True)
    apply_compute(model, compute, Accelerator.CPU)
    assert model.attention is AttentionKind.MASK
