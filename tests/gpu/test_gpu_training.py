"""Training on a real GPU: settings change no result, and fp32 steps equal those of a CPU."""

import copy
import dataclasses
from pathlib import Path

import lightning
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch._dynamo.utils import counters

from benchmarks.gpu_step.data import Sources, mixture_of, write_sources
from benchmarks.gpu_step.model import TINY, build_ours, make_chat, make_transform
from callbacks.checkpoint_interval import EverySteps
from callbacks.checkpoints import AtomicCheckpoint, latest_checkpoint
from configuration.run_config import INSTRUCT_POLICY
from configuration.trainer import Accelerator
from core.chat.format import PromptStyle
from core.errors import ConfigError
from core.precision import Precision
from core.samples import StepBatch
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from lightning_modules.compute import ComputeConfig
from lightning_modules.optim import OptimConfig, OptimizerName, build_optimizer
from lightning_modules.precision import trainer_arguments
from lightning_modules.vlm_module import VlmModule
from models.freezing import cast_all, cast_frozen
from models.language.attention import AttentionKind
from models.language.float8 import check_float8, use_float8
from models.vlm import VisionLanguageModel
from pipeline.trainer import apply_compute, row_layout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NUM_STEPS = 4
LEVERS = {
    "flex": ComputeConfig(attention=AttentionKind.FLEX),
    "auto": ComputeConfig(attention=AttentionKind.AUTO),
    "compiled": ComputeConfig(attention=AttentionKind.MASK, compile_blocks=True),
    "compiled flex": ComputeConfig(attention=AttentionKind.FLEX, compile_blocks=True),
    "recomputed": ComputeConfig(attention=AttentionKind.MASK, checkpoint_blocks=1),
    "chunked": ComputeConfig(attention=AttentionKind.MASK, loss_chunk=64),
    "all": ComputeConfig(compile_blocks=True, checkpoint_blocks=1, loss_chunk=64),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return write_sources(tmp_path_factory.mktemp("sources"), TINY)


def data_of(sources: Sources, folder: Path, style: PromptStyle) -> MixtureDataModule:
    stream = StreamConfig(
        mixture=mixture_of(sources, TINY, 2),
        prompt_style=style,
        micro_batch_tokens=TINY.micro_batch_tokens,
        row_tokens=TINY.row_tokens,
    )
    return MixtureDataModule(
        stream,
        chat=make_chat(TINY),
        num_steps=NUM_STEPS,
        cache_dir=folder / "cache",
        transform=make_transform(TINY),
        layout=row_layout(AttentionKind.AUTO, is_gpu=True),
    )


@pytest.fixture(scope="module", params=[PromptStyle.SHARED_PREFIX, PromptStyle.CHAT])
def step(
    request: pytest.FixtureRequest, sources: Sources, tmp_path_factory: pytest.TempPathFactory
) -> StepBatch:
    """Return a step with branches (flex) or without (varlen if the weights are bf16)."""
    folder = tmp_path_factory.mktemp("step")
    return next(iter(data_of(sources, folder, request.param).train_dataloader()))


def model_on(device: torch.device, dtype: torch.dtype) -> VisionLanguageModel:
    """Build the model with the same weights on every device; buffers keep their type."""
    model = build_ours(TINY, make_chat(TINY), CPU).to(device)
    cast_all(model, dtype)
    return model


def loss_and_gradients(
    model: VisionLanguageModel, step: StepBatch, config: ComputeConfig
) -> tuple[float, torch.Tensor]:
    """Return the mean loss and the gradients of all trained weights as one fp32 CPU vector."""
    torch.compiler.reset()
    device = model.device
    module = VlmModule(model, policy=INSTRUCT_POLICY, optim=OptimConfig(lr=1e-3), num_steps=1)
    apply_compute(model, config, Accelerator(device.type))
    loss = torch.zeros((), device=device)
    for micro_batch in step.to(device).micro_batches:
        part = module(micro_batch) / step.num_loss_tokens
        part.backward()
        loss += part.detach()
    gradients = [p.grad.float().cpu().flatten() for p in model.parameters() if p.grad is not None]
    return float(loss), torch.cat(gradients)


def relative(difference: torch.Tensor, expected: torch.Tensor) -> float:
    return float(difference.norm() / expected.norm())


MASK = ComputeConfig(attention=AttentionKind.MASK)


def test_a_bf16_step_on_the_card_is_the_fp32_step_of_the_cpu(step: StepBatch) -> None:
    loss_cpu, gradients_cpu = loss_and_gradients(model_on(CPU, torch.float32), step, MASK)
    loss, gradients = loss_and_gradients(model_on(CUDA, torch.bfloat16), step, ComputeConfig())
    assert loss == pytest.approx(loss_cpu, rel=1e-2)
    assert relative(gradients - gradients_cpu, gradients_cpu) < 0.05


@pytest.mark.parametrize("name", LEVERS)
def test_no_lever_changes_a_step(step: StepBatch, name: str) -> None:
    """In fp32, which shows differences; in bf16 if the kernel (varlen) requires it."""
    dtype = torch.bfloat16 if name in ("auto", "all") else torch.float32
    loss_mask, expected = loss_and_gradients(model_on(CUDA, dtype), step, MASK)
    loss, found = loss_and_gradients(model_on(CUDA, dtype), step, LEVERS[name])
    is_half = dtype is torch.bfloat16
    assert loss == pytest.approx(loss_mask, rel=5e-3 if is_half else 1e-4)
    # Flex attention multiplies in TF32, so fp32 does not agree more closely.
    assert relative(found - expected, expected) < (0.03 if is_half else 5e-3)


def test_float8_on_the_card_is_what_a_cpu_emulates(step: StepBatch) -> None:
    try:
        check_float8(torch.device("cuda", 0))
    except ConfigError as error:
        pytest.skip(str(error))
    results = []
    for is_emulated in (True, False):
        model = model_on(CUDA, torch.bfloat16)
        use_float8(model.language_model, is_emulated=is_emulated)
        results.append(loss_and_gradients(model, step, MASK))
    (expected_loss, expected), (loss, found) = results
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert relative(found - expected, expected) < 0.05


def test_recomputing_needs_less_memory(step: StepBatch) -> None:
    peaks = []
    for every in (0, 1):
        model = model_on(CUDA, torch.float32)
        torch.cuda.reset_peak_memory_stats()
        loss_and_gradients(model, step, dataclasses.replace(MASK, checkpoint_blocks=every))
        peaks.append(torch.cuda.max_memory_allocated())
        del model
    assert peaks[1] < peaks[0]


class Losses(lightning.Callback):
    """Records the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, *_: object) -> None:  # type: ignore[no-untyped-def, override]
        del trainer
        self.values.append(float(pl_module.step_metrics["train/loss"]))


@pytest.mark.parametrize("style", [PromptStyle.SHARED_PREFIX, PromptStyle.CHAT])
@pytest.mark.parametrize(
    ("precision", "compile_blocks"),
    [*((precision, False) for precision in Precision), (Precision.BF16_MIXED, True)],
)
def test_every_precision_trains_on_the_card(
    sources: Sources,
    tmp_path: Path,
    precision: Precision,
    style: PromptStyle,
    *,
    compile_blocks: bool,
) -> None:
    """Training uses Lightning's autocast, the fastest kernel and its layout, as a stage does.

    In mixed precision the weights are in fp32, so that queries and keys reach varlen in fp32.
    """
    torch.compiler.reset()
    counters.clear()
    losses = {}
    for device in (CPU, CUDA):
        model = model_on(CPU, torch.float32)
        module = VlmModule(
            model, policy=INSTRUCT_POLICY, optim=OptimConfig(lr=1e-3), num_steps=NUM_STEPS
        )
        used = precision if device is CUDA else Precision.FLOAT32
        if used is not Precision.FLOAT32:
            cast_frozen(model, torch.bfloat16)
        compute = ComputeConfig(compile_blocks=compile_blocks and device is CUDA)
        apply_compute(model, compute, Accelerator(device.type))
        recorded = Losses()
        trainer = lightning.Trainer(
            max_steps=NUM_STEPS,
            max_epochs=-1,
            accelerator=device.type,
            devices=1,
            logger=False,
            callbacks=[recorded],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **trainer_arguments(used, LightningEnvironment()),
        )
        trainer.fit(module, datamodule=data_of(sources, tmp_path, style))
        losses[device.type] = recorded.values
    if compile_blocks:
        assert 0 < counters["stats"]["unique_graphs"] <= 4
        assert not counters["graph_break"]
    assert len(losses["cuda"]) == NUM_STEPS
    assert losses["cuda"][0] == pytest.approx(losses["cpu"][0], rel=2e-2)
    assert losses["cuda"][-1] == pytest.approx(losses["cpu"][-1], rel=5e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_micro_batch_does_not_stop_the_host(step: StepBatch, dtype: torch.dtype) -> None:
    """After a first pass, which may set up kernels, any synchronisation raises."""
    model = model_on(CUDA, dtype)
    module = VlmModule(model, policy=INSTRUCT_POLICY, optim=OptimConfig(lr=1e-3), num_steps=1)
    apply_compute(model, ComputeConfig(loss_chunk=64), Accelerator.CUDA)
    micro_batches = step.to(CUDA).micro_batches
    module(micro_batches[0]).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for micro_batch in micro_batches:
            module(micro_batch).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _optimise(
    model: VisionLanguageModel, step: StepBatch, name: OptimizerName, num_steps: int
) -> list[float]:
    config = OptimConfig(lr=1e-3, optimizer=name)
    module = VlmModule(model, policy=INSTRUCT_POLICY, optim=config, num_steps=num_steps)
    apply_compute(model, MASK, Accelerator.CUDA)
    optimizer, losses = build_optimizer(module.parameters(), config), []
    moved = step.to(model.device)
    for _ in range(num_steps):
        loss = sum(module(mb) / step.num_loss_tokens for mb in moved.micro_batches)
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_fused_adamw_steps_as_on_the_cpu(step: StepBatch) -> None:
    curves = [
        _optimise(model_on(device, torch.float32), step, OptimizerName.ADAMW, 3)
        for device in (CPU, CUDA)
    ]
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)
    assert curves[1][-1] < curves[1][0]


def test_the_8_bit_optimizer_learns_like_the_32_bit_one(step: StepBatch) -> None:
    pytest.importorskip("bitsandbytes")
    full, low = (
        _optimise(model_on(CUDA, torch.bfloat16), step, name, 8)
        for name in (OptimizerName.ADAMW, OptimizerName.ADAMW_8BIT)
    )
    assert low[-1] < low[0]
    assert low[-1] == pytest.approx(full[-1], rel=0.03)


def test_a_killed_run_resumes_at_its_checkpoint(sources: Sources, tmp_path: Path) -> None:
    """Four steps in one run equal two runs of two steps with a checkpoint between them."""
    initial = model_on(CPU, torch.float32)

    def train(folder: Path, num_steps: int) -> list[torch.Tensor]:
        module = VlmModule(
            copy.deepcopy(initial),
            policy=INSTRUCT_POLICY,
            optim=OptimConfig(lr=1e-3),
            num_steps=NUM_STEPS,
        )
        apply_compute(module.model, MASK, Accelerator.CUDA)
        newest = latest_checkpoint(folder)
        trainer = lightning.Trainer(
            max_steps=num_steps,
            max_epochs=-1,
            accelerator=CUDA.type,
            devices=1,
            logger=False,
            callbacks=[AtomicCheckpoint(folder, cadence=EverySteps(2))],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = data_of(sources, tmp_path, PromptStyle.CHAT)
        path = newest.path if newest else None
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
        return [p.detach().cpu() for p in module.parameters() if p.requires_grad]

    train(tmp_path / "killed", 2)
    resumed = train(tmp_path / "killed", NUM_STEPS)
    whole = train(tmp_path / "whole", NUM_STEPS)
    torch.testing.assert_close(resumed, whole, rtol=1e-4, atol=1e-5)
