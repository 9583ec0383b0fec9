"""Adapters, 4-bit weights and the 8-bit optimizer on a small Llama, and their combinations."""

import io
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from core.errors import CheckpointError, ConfigError
from core.precision import Precision
from core.samples import MicroBatch
from lightning_modules.compute import StrategyName
from lightning_modules.lowbit import check_combination
from lightning_modules.optim import MIN_8BIT_SIZE, OptimConfig, OptimizerName, build_optimizer
from models.connector import ConnectorConfig, build_connector
from models.freezing import FreezePolicy, apply_freeze, cast_all, cast_frozen
from models.language.adapters import (
    TuningConfig,
    TuningKind,
    adapter_names,
    apply_tuning,
    merge_adapters,
)
from models.vlm import VisionLanguageModel
from models.weights import load_weights, save_weights

WIDTH, VOCABULARY, RANK = 64, 61, 4
LEARNS = FreezePolicy(language_model=True)
LINEARS_PER_BLOCK, NUM_BLOCKS = 7, 2


def build_model() -> VisionLanguageModel:
    config = LlamaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=NUM_BLOCKS,
        intermediate_size=128,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        language_model = LlamaForCausalLM(config).eval()
    connector = build_connector(ConnectorConfig(), vision_width=16, model_width=WIDTH, seed=0)
    return VisionLanguageModel(None, connector, language_model, image_token_id=5)


def tuned(kind: TuningKind, *, dropout: float = 0.0, seed: int = 0) -> VisionLanguageModel:
    model = build_model()
    config = TuningConfig(kind=kind, rank=RANK, alpha=8.0, dropout=dropout)
    apply_tuning(model.language_model, config, seed=seed, learns=True)
    return model


def micro_batch(*, with_image: bool = False) -> MicroBatch:
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(10, VOCABULARY, (2, 12), generator=generator)
    zeros_BT = torch.zeros_like(ids_BT)
    if with_image:
        ids_BT[0, 1:3] = 5
    return MicroBatch.of_rows(
        input_ids_BT=ids_BT,
        labels_BT=ids_BT.clone(),
        position_ids_BT=torch.arange(12).expand(2, 12),
        document_ids_BT=zeros_BT + 1,
        branch_ids_BT=zeros_BT,
        image_token_id=5,
        features_NPE=torch.ones(1, 2, 16) if with_image else None,
    )


def train(model: VisionLanguageModel, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = model(micro_batch()).loss_sum / 22
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses


def logits(model: VisionLanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().logits(micro_batch())


# --- adapters ---


def test_new_adapters_do_not_change_the_output_and_depend_on_the_seed() -> None:
    first, same, other = models = [build_model() for _ in range(3)]
    before = torch.get_rng_state()
    for model, seed in zip(models, (3, 3, 4), strict=True):
        config = TuningConfig(kind=TuningKind.LORA, rank=RANK)
        apply_tuning(model.language_model, config, seed=seed, learns=True)
    assert torch.equal(torch.get_rng_state(), before), "drawn from the global generator"
    first.eval()
    assert torch.equal(logits(first), logits(build_model()))
    names = adapter_names(first.language_model)
    assert len(names) == 2 * LINEARS_PER_BLOCK * NUM_BLOCKS
    states = [model.language_model.state_dict() for model in (first, same, other)]
    for name in names:
        assert torch.equal(states[0][name], states[1][name])
        assert torch.equal(states[0][name], states[2][name]) == ("lora_B" in name)


@pytest.mark.parametrize("kind", [TuningKind.LORA, TuningKind.QLORA])
def test_only_adapters_and_connector_are_trained(kind: TuningKind) -> None:
    model = tuned(kind)
    total = sum(p.numel() for p in build_model().language_model.parameters())
    report = apply_freeze(model, LEARNS)
    line = {line.part: line for line in report.lines}["language_model"]
    names = adapter_names(model.language_model)
    weights = dict(model.language_model.named_parameters())
    assert line.trainable == sum(weights[name].numel() for name in names)
    assert line.frozen == total, "4-bit weights are counted as weights, not as bytes"
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model.parameters(), OptimConfig(lr=1e-2))
    losses = train(model, optimizer, 12)
    assert losses[-1] < losses[0] - 0.1
    moved = {n for n, v in model.named_parameters() if not torch.equal(v.detach(), before[n])}
    # Without images the connector has zero gradients.
    assert moved == {f"language_model.{name}" for name in names}


def test_merging_adapters_keeps_the_logits() -> None:
    model = tuned(TuningKind.LORA)
    apply_freeze(model, LEARNS)
    train(model, build_optimizer(model.parameters(), OptimConfig(lr=1e-2)), 8)
    expected = logits(model)
    assert (expected - logits(build_model())).abs().max() > 0.1
    merge_adapters(model.language_model)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    plain = build_model().language_model
    assert model.language_model.state_dict().keys() == plain.state_dict().keys()
    assert {type(m) for m in model.modules()} == {type(m) for m in build_model().modules()}


def test_merging_dequantises_four_bit_weights() -> None:
    model = tuned(TuningKind.QLORA)
    apply_freeze(model, LEARNS)
    train(model, build_optimizer(model.parameters(), OptimConfig(lr=1e-2)), 8)
    expected, spread = logits(model), float(logits(model).std())
    merge_adapters(model.language_model)
    found = logits(model)
    assert {type(m) for m in model.modules()} == {type(m) for m in build_model().modules()}
    # The tuned model multiplies in bfloat16 (8 bits), the merged one in float32.
    assert (found - expected).abs().max() < 0.1 * spread
    assert (found - logits(build_model())).abs().max() > spread


def test_four_bit_weights_are_close_to_the_originals() -> None:
    model, plain = tuned(TuningKind.QLORA), build_model()
    layer = model.language_model.get_submodule("model.layers.0.mlp.up_proj").base_layer
    original = plain.language_model.get_submodule("model.layers.0.mlp.up_proj").weight
    assert layer.weight.dtype is torch.uint8
    assert layer.weight.numel() == original.numel() // 2
    merge_adapters(model.language_model)
    found = model.language_model.get_submodule("model.layers.0.mlp.up_proj").weight
    error = (found - original).norm() / original.norm()
    assert 0.01 < error < 0.15, "nf4 rounds to 16 values"
    assert isinstance(model.language_model.lm_head, nn.Linear)
    assert torch.equal(model.language_model.lm_head.weight, plain.language_model.lm_head.weight)


@pytest.mark.parametrize("kind", [TuningKind.LORA, TuningKind.QLORA])
def test_a_weights_file_contains_adapters_and_connector_only(
    kind: TuningKind, tmp_path: Path
) -> None:
    model = tuned(kind)
    apply_freeze(model, LEARNS)
    train(model, build_optimizer(model.parameters(), OptimConfig(lr=1e-2)), 4)
    parts = {"connector": model.connector, "language_model": model.language_model}
    save_weights(tmp_path / "w", parts)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (tmp_path / "w").stat().st_size < 4 * learned + 10_000
    again = tuned(kind, seed=9)
    assert not torch.equal(logits(again), logits(model))
    load_weights(
        tmp_path / "w", {"connector": again.connector, "language_model": again.language_model}
    )
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(CheckpointError, match="28 unexpected"):
        load_weights(tmp_path / "w", {"language_model": build_model().language_model})


def test_a_frozen_language_model_can_be_quantised() -> None:
    """Stage 1: no adapters, gradients reach the connector through 4-bit weights."""
    model = build_model()
    apply_tuning(model.language_model, TuningConfig(kind=TuningKind.QLORA), seed=0, learns=False)
    report = apply_freeze(model, FreezePolicy())
    assert not adapter_names(model.language_model)
    assert report.num_trainable == sum(p.numel() for p in model.connector.parameters())
    model(micro_batch(with_image=True)).loss_sum.backward()
    gradient = next(model.connector.parameters()).grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("kind", [TuningKind.LORA, TuningKind.QLORA])
def test_casting_keeps_adapters_and_four_bit_weights(kind: TuningKind) -> None:
    model = tuned(kind)
    apply_freeze(model, LEARNS)
    cast_frozen(model, torch.bfloat16)
    layer = model.language_model.get_submodule("model.layers.0.mlp.up_proj")
    assert {p.dtype for p in layer.parameters() if p.requires_grad} == {torch.float32}
    is_quantised = kind is TuningKind.QLORA
    assert layer.base_layer.weight.dtype is (torch.uint8 if is_quantised else torch.bfloat16)
    cast_all(model, torch.bfloat16)
    assert logits(model).isfinite().all()


# --- 8-bit moments ---


def test_eight_bit_adamw_approximates_adamw() -> None:
    losses = {}
    for name in OptimizerName:
        model = build_model()
        apply_freeze(model, LEARNS)
        optimizer = build_optimizer(model.parameters(), OptimConfig(lr=1e-3, optimizer=name))
        losses[name] = train(model, optimizer, 25)
    ours, theirs = losses[OptimizerName.ADAMW_8BIT], losses[OptimizerName.ADAMW]
    assert theirs[-1] < theirs[0] - 0.5
    assert ours != theirs, "no tensor has 8-bit moments"
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 0.05


def test_large_tensors_have_eight_bit_moments_and_small_ones_do_not() -> None:
    model = build_model()
    apply_freeze(model, LEARNS)
    config = OptimConfig(lr=1e-3, optimizer=OptimizerName.ADAMW_8BIT)
    optimizer = build_optimizer(model.parameters(), config)
    train(model, optimizer, 1)
    kinds = {}
    for parameter in model.language_model.parameters():
        kinds.setdefault(parameter.numel() >= MIN_8BIT_SIZE, set()).add(
            optimizer.state[parameter]["state1"].dtype
        )
    assert kinds == {True: {torch.uint8}, False: {torch.float32}}


def test_eight_bit_adamw_resumes_exactly() -> None:
    config = OptimConfig(lr=1e-3, optimizer=OptimizerName.ADAMW_8BIT)
    models = [build_model(), build_model()]
    for model in models:
        apply_freeze(model, LEARNS)
    optimizers = [build_optimizer(model.parameters(), config) for model in models]
    train(models[0], optimizers[0], 5)
    file = io.BytesIO()
    torch.save([models[0].state_dict(), optimizers[0].state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    models[1].load_state_dict(weights)
    optimizers[1].load_state_dict(state)
    losses = [train(m, o, 5) for m, o in zip(models, optimizers, strict=True)]
    assert losses[0] == losses[1]
    assert torch.equal(logits(models[0]), logits(models[1]))


# --- combinations ---


def allowed(
    optimizer: OptimizerName, tuning: TuningKind, strategy: StrategyName, *, learns: bool
) -> str:
    try:
        check_combination(
            "instruct",
            optimizer=optimizer,
            tuning=tuning,
            strategy=strategy,
            precision=Precision.BF16_MIXED,
            trains_language_model=learns,
        )
    except ConfigError as error:
        return str(error)
    return ""


def test_sharding_excludes_low_bits_and_adapters() -> None:
    for optimizer, tuning, strategy in itertools.product(OptimizerName, TuningKind, StrategyName):
        error = allowed(optimizer, tuning, strategy, learns=True)
        is_plain = (optimizer, tuning) == (OptimizerName.ADAMW, TuningKind.FULL)
        assert (error == "") == (is_plain or not strategy.is_sharded)


@pytest.mark.parametrize(
    ("optimizer", "tuning", "strategy", "learns", "words"),
    [
        (
            "adamw_8bit",
            "full",
            "fsdp2",
            True,
            ("instruct.optim.optimizer=adamw_8bit", "set optimizer=adamw"),
        ),
        ("adamw", "qlora", "fsdp2", True, ("instruct.tuning.kind=qlora", "set strategy=ddp")),
        ("adamw", "lora", "fsdp2", True, ("instruct.tuning.kind=lora", "set strategy=ddp")),
        ("adamw", "lora", "auto", False, ("kind=lora", "frozen in this stage", "kind=qlora")),
    ],
)
def test_rejected_combinations_explain_the_fix(
    optimizer: str, tuning: str, strategy: str, words: tuple[str, ...], *, learns: bool
) -> None:
    error = allowed(
        OptimizerName(optimizer), TuningKind(tuning), StrategyName(strategy), learns=learns
    )
    for word in words:
        assert word in error


def test_invalid_sizes_are_rejected() -> None:
    for name, value in (("rank", 0), ("alpha", 0.0), ("dropout", 1.0)):
        with pytest.raises(ConfigError, match=f"tuning.{name}"):
            TuningConfig(**{name: value})
