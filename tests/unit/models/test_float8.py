"""Float8 products of the decoder blocks, emulated on the CPU, against the formula and bfloat16."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import LlamaConfig, LlamaForCausalLM

from core.errors import ConfigError
from core.precision import Precision
from lightning_modules.compute import StrategyName
from lightning_modules.lowbit import check_combination
from lightning_modules.optim import OptimizerName
from models.connector import ConnectorConfig, build_connector
from models.language import float8
from models.language.adapters import TuningKind
from models.language.attention import AttentionKind, use_packed_attention
from models.language.blocks import decoder_blocks
from models.language.float8 import check_float8, use_float8
from models.language.language_model import LanguageModelConfig, load_language_model
from models.sharding import shard_model
from models.vlm import VisionLanguageModel
from tests.support.models.tiny_vlm import (
    IMAGE,
    VISION_WIDTH,
    build_model,
    loss_and_gradients,
    one_rank,
    packed,
)

pytestmark = pytest.mark.gpu_path
needs_torchao = pytest.mark.skipif(
    not float8.has_torchao(), reason="torchao is not installed: pip install '.[float8]'"
)
TRAINED = "data/embedded/models/lm_general"
LARGEST = 448.0
"""Largest number of e4m3."""
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 0.01, 0.15
"""Relative: e4m3 has 3 bits of mantissa, so one operand is rounded by 2.6 % (root mean square)."""


def rounded(values: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Round to float8 with a scale for each vector along a dimension, a power of two."""
    largest = values.abs().amax(dim=dim, keepdim=True)
    scale = 2.0 ** torch.floor(torch.log2(LARGEST / largest.double()))
    return (values * scale).to(torch.float8_e4m3fn).double() / scale


def float8_model() -> VisionLanguageModel:
    model = build_model()
    use_packed_attention(model.language_model, AttentionKind.MASK)
    use_float8(model.language_model, is_emulated=True)
    return model


def plain_model() -> VisionLanguageModel:
    model = build_model()
    use_packed_attention(model.language_model, AttentionKind.MASK)
    return model


def distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    flat_found, flat_expected = (torch.cat([t.flatten() for t in ts]) for ts in (found, expected))
    return float((flat_found - flat_expected).norm() / flat_expected.norm())


@needs_torchao
def test_each_product_rounds_both_operands_along_the_summed_dimension() -> None:
    torch.manual_seed(0)
    block = nn.Module()
    block.linear = nn.Linear(32, 48, bias=False)
    weight_DD = block.linear.weight.detach().double()
    decoder = nn.Module()
    decoder.layers = nn.ModuleList([block])
    language_model: Any = nn.Module()
    language_model.get_decoder = lambda: decoder
    language_model.get_output_embeddings = lambda: None
    use_float8(language_model, is_emulated=True)
    inputs_TD = torch.randn(16, 32, requires_grad=True)
    result_TD = block.linear(inputs_TD)
    gradient_TD = torch.randn(16, 48)
    result_TD.backward(gradient_TD)
    x, g = inputs_TD.detach().double(), gradient_TD.double()
    pairs = (
        (result_TD, rounded(x, dim=1) @ rounded(weight_DD, dim=1).T),
        (inputs_TD.grad, rounded(g, dim=1) @ rounded(weight_DD, dim=0)),
        (block.linear.weight.grad, rounded(g, dim=0).T @ rounded(x, dim=0)),
    )
    for found, expected in pairs:
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        assert found.dtype == torch.float32


@needs_torchao
@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_step_is_that_of_float32_within_the_stated_tolerance(*, is_frozen: bool) -> None:
    """The weights are those of a trained model: those of a random one amplify any rounding."""
    batch = packed(with_branches=True, with_image=True)
    found: list[tuple[float, list[torch.Tensor]]] = []
    for is_float8 in (False, True):
        language_model = load_language_model(LanguageModelConfig(path=TRAINED))
        use_packed_attention(language_model, AttentionKind.MASK)
        if is_float8:
            use_float8(language_model, is_emulated=True)
        language_model.requires_grad_(requires_grad=not is_frozen)
        connector = build_connector(
            ConnectorConfig(),
            vision_width=VISION_WIDTH,
            model_width=language_model.config.hidden_size,
            seed=0,
        )
        model = VisionLanguageModel(None, connector, language_model, image_token_id=IMAGE)
        loss = model(batch).loss_sum
        loss.backward()
        is_without = [p.grad is None for p in language_model.parameters()]
        assert all(is_without) if is_frozen else not any(is_without)
        found.append((float(loss), [p.grad for p in model.parameters() if p.grad is not None]))
    (expected, expected_gradients), (loss_sum, gradients) = found
    assert loss_sum == pytest.approx(expected, rel=LOSS_TOLERANCE)
    assert 0 < distance(gradients, expected_gradients) < GRADIENT_TOLERANCE


@needs_torchao
def test_only_linear_layers_of_the_blocks_change_and_names_stay() -> None:
    plain, model = plain_model(), float8_model()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    blocks = decoder_blocks(model.language_model)
    inside = {id(part) for block in blocks for part in block.modules()}
    kinds = {
        (id(part) in inside, type(part).__name__)
        for part in model.modules()
        if isinstance(part, nn.Linear)
    }
    assert kinds == {(True, "Float8Linear"), (False, "Linear")}


@needs_torchao
def test_autocast_reaches_the_layers_on_a_cpu() -> None:
    model = float8_model()
    seen = list[torch.dtype]()
    linear = next(p for p in decoder_blocks(model.language_model)[0].modules()
                  if isinstance(p, nn.Linear))  # fmt: skip
    linear.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(packed(with_branches=False)).loss_sum.isfinite()
    assert seen == [torch.bfloat16]


@needs_torchao
def test_sharding_changes_nothing() -> None:
    batch = packed(with_branches=False)
    expected = loss_and_gradients(float8_model(), batch)
    with one_rank() as mesh:
        model = float8_model()
        shard_model(model, mesh, MixedPrecisionPolicy())
        loss = model(batch).loss_sum
        loss.backward()
        found: list[Any] = [p.grad for p in model.language_model.parameters()]
        assert torch.equal(loss, expected[0])
        for gradient, value in zip(found, expected[1:], strict=True):
            assert torch.equal(gradient.full_tensor(), value)


@needs_torchao
@pytest.mark.slow
def test_a_compiled_block_is_one_graph() -> None:
    batch = packed(with_branches=False)
    expected = loss_and_gradients(float8_model(), batch)
    model = float8_model()
    torch.compiler.reset()
    for block in decoder_blocks(model.language_model):
        block.compile(backend="aot_eager", fullgraph=True)
    found = loss_and_gradients(model, batch)
    assert distance(found, expected) < 1e-5


# --- what does not work is rejected ---


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


def test_devices_without_float8_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "has_torchao", lambda: True)
    check_float8(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    error = error_of(lambda: check_float8(torch.device("cuda", 0)))
    assert "NVIDIA A100 has compute capability 8.0" in error
    assert "precision=bf16-mixed" in error
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    check_float8(torch.device("cuda", 0))
    assert "needs a CUDA GPU, not mps" in error_of(lambda: check_float8(torch.device("mps")))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "has_torchao", lambda: False)
    assert "pip install '.[float8]'" in error_of(lambda: check_float8(torch.device("cpu")))
    model = build_model().language_model
    assert "pip install '.[float8]'" in error_of(lambda: use_float8(model, is_emulated=True))


@needs_torchao
def test_sizes_must_be_multiples_of_16() -> None:
    config = LlamaConfig(hidden_size=32, intermediate_size=40, num_hidden_layers=1,
                         num_attention_heads=2, vocab_size=32)  # fmt: skip
    error = error_of(lambda: use_float8(LlamaForCausalLM(config), is_emulated=True))
    assert "mlp.gate_proj of the decoder blocks has 32 inputs and 40 outputs" in error


@pytest.mark.parametrize("tuning", [TuningKind.LORA, TuningKind.QLORA])
def test_adapters_and_4_bit_weights_are_rejected(tuning: TuningKind) -> None:
    error = error_of(
        lambda: check_combination(
            "instruct",
            optimizer=OptimizerName.ADAMW,
            tuning=tuning,
            strategy=StrategyName.DDP,
            precision=Precision.FLOAT8_MIXED,
            trains_language_model=True,
        )
    )
    assert f"instruct.tuning.kind={tuning}" in error
