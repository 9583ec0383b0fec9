"""Precisions of training: what is cast under which strategy, and a few steps of each."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from unittest import mock

import lightning
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.plugins.precision.half import HalfPrecision
from lightning.pytorch.strategies import Strategy
from torch.utils.data import DataLoader, IterableDataset

from configuration.run_config import INSTRUCT_POLICY
from core.errors import ConfigError
from core.precision import Precision
from core.samples import StepBatch
from lightning_modules.compute import StrategyName
from lightning_modules.optim import OptimConfig, OptimizerName
from lightning_modules.precision import (
    BfloatWeights,
    check_rotary_frequencies,
    trainer_arguments,
)
from lightning_modules.strategy import build_strategy
from lightning_modules.vlm_module import Sharding, VlmModule
from models.freezing import cast_frozen
from models.language.float8 import has_torchao, use_float8
from tests.support.models.tiny_vlm import build_model, packed

pytestmark = pytest.mark.gpu_path

NUM_STEPS = 6
PRECISIONS = [p for p in Precision if p is not Precision.FLOAT8_MIXED or has_torchao()]


class SameSteps(IterableDataset[StepBatch]):
    """The same two micro-batches in every step: one with and one without an image."""

    def __iter__(self) -> Iterator[StepBatch]:
        micro_batches = tuple(packed(with_branches=x, with_image=x) for x in (False, True))
        for step in range(NUM_STEPS):
            yield StepBatch(step=step, micro_batches=micro_batches)


class Losses(lightning.Callback):
    """Records the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, *_: object) -> None:  # type: ignore[no-untyped-def, override]
        del trainer
        self.values.append(float(pl_module.step_metrics["train/loss"]))


def train(
    precision: Precision,
    strategy: StrategyName = StrategyName.AUTO,
    optimizer: OptimizerName = OptimizerName.ADAMW,
    *,
    callbacks: Sequence[lightning.Callback] = (),
) -> tuple[VlmModule, list[float]]:
    """Train connector and language model for a few steps."""
    model = build_model()
    optim = OptimConfig(lr=1e-2, warmup_fraction=0.0, optimizer=optimizer)
    module = VlmModule(model, policy=INSTRUCT_POLICY, optim=optim, num_steps=NUM_STEPS)
    if precision is not Precision.FLOAT32:
        cast_frozen(model, torch.bfloat16)
    if precision is Precision.FLOAT8_MIXED:
        use_float8(model.language_model, is_emulated=True)
    if strategy.is_sharded:
        module.sharding = Sharding(precision=precision, load=lambda _: None)
    losses = Losses()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        strategy=_replicas_of_one()
        if strategy is StrategyName.DDP
        else build_strategy("cpu", 1, name=strategy),
        max_steps=NUM_STEPS,
        max_epochs=-1,
        callbacks=[losses, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_arguments(precision, LightningEnvironment()),
    )
    with mock.patch.dict(os.environ):  # Lightning sets the address of its process group
        try:
            trainer.fit(module, DataLoader(SameSteps(), batch_size=None))
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    return module, losses.values


def _replicas_of_one() -> Strategy:
    """Return the strategy of several ranks, for this process alone."""
    strategy = build_strategy("cpu", 2, name=StrategyName.DDP)
    assert isinstance(strategy, Strategy)
    return strategy


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [StrategyName.AUTO, StrategyName.FSDP2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_trains_and_keeps_buffers(
    precision: Precision, strategy: StrategyName
) -> None:
    module, losses = train(precision, strategy)
    is_half = precision is Precision.BF16_TRUE
    weights = torch.bfloat16 if is_half else torch.float32
    assert {p.dtype for p in module.parameters()} == {weights}
    frequencies = dict(module.named_buffers())["model.language_model.model.rotary_emb.inv_freq"]
    assert frequencies.dtype is torch.float32
    expected = build_model().language_model.model.rotary_emb.inv_freq
    assert torch.equal(frequencies, expected)
    assert len(losses) == NUM_STEPS
    assert losses[-1] < 0.9 * losses[0]


class GradientStorages(lightning.Callback):
    """Counts the storages of all gradients after every step, and weights that have none."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer, pl_module, *_: object) -> None:  # type: ignore[no-untyped-def, override]
        del trainer
        gradients = [p.grad for p in pl_module.parameters()]
        found = {g.untyped_storage().data_ptr() for g in gradients if g is not None}
        self.counts.append((len(found), sum(g is None for g in gradients)))


def test_the_gradients_of_ddp_are_its_buckets() -> None:
    """A copy would take 4 bytes for each trained weight, from the first step on."""
    storages = GradientStorages()
    module, losses = train(Precision.FLOAT32, StrategyName.DDP, callbacks=[storages])
    assert storages.counts == [(1, 0)] * NUM_STEPS, "one bucket holds this small model"
    assert len(list(module.parameters())) > 20
    assert losses == train(Precision.FLOAT32)[1]


def test_what_the_planner_advises_for_one_gpu_trains() -> None:
    """16-bit weights and 8-bit moments: full training of an 8B model on one card."""
    pytest.importorskip("bitsandbytes")
    module, losses = train(Precision.BF16_TRUE, optimizer=OptimizerName.ADAMW_8BIT)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert losses[-1] < 0.9 * losses[0]


def test_precisions_agree_on_the_first_loss() -> None:
    """The same weights and data: 16-bit rounding changes the loss by a percent at most."""
    first = [train(precision)[1][0] for precision in PRECISIONS]
    assert first[1:] == pytest.approx([first[0]] * (len(first) - 1), rel=0.02)
    assert len(set(first)) == len(first)


def test_weights_are_cast_and_rotary_frequencies_are_not() -> None:
    model = build_model()
    converted = BfloatWeights().convert_module(model)
    assert converted is model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    check_rotary_frequencies(model)
    HalfPrecision("bf16-true").convert_module(model)
    with pytest.raises(ConfigError, match=r"inv_freq is torch.bfloat16, expected torch.float32"):
        check_rotary_frequencies(model)


def test_batches_and_the_default_type_stay_as_they_are() -> None:
    batch = packed(with_branches=False, with_image=True)
    plugin = BfloatWeights()
    assert plugin.convert_input(batch) is batch
    assert dataclasses.is_dataclass(batch)
    with plugin.train_step_context():
        assert torch.get_default_dtype() is torch.float32


def test_a_trainer_has_the_precision_of_its_stage() -> None:
    names = [
        lightning.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            **trainer_arguments(precision, LightningEnvironment()),
        ).precision
        for precision in Precision
    ]
    assert names == ["32-true", "bf16-mixed", "bf16-true", "bf16-mixed"]
