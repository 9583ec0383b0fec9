"""Peak memory of a training step by part, on fake tensors and any number of fake ranks."""

import contextlib
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from core.samples import MicroBatch
from lightning_modules.optim import build_optimizer
from models.accounting.fake_model import constants_of, dropout_of_a_gpu
from models.accounting.live_memory import LiveMemory
from models.accounting.shapes import empty_vlm
from models.any_vlm import AnyVlm
from models.connector import get_connector_class
from models.language.generation import decoder_and_output_layer
from models.ready_made.model import ReadyMadeVlm
from models.sharding import reduce_gradients
from planner.trace.fake_model import fake_micro_batch, fake_model, fake_ranks, kernels_of_a_gpu
from planner.trace.ready_made import fake_ready_made, fake_ready_micro_batch, vision_encoder
from planner.trace.real_integers import RealIntegers
from planner.training_fields import TrainingFields
from planner.workload import Load

_NUM_MICRO_BATCHES = 2
"""The second one runs next to the gradients of the first."""
_FEW_BLOCKS, _MORE_BLOCKS = 2, 4
"""Blocks of the shorter trace, and how many more the longer one has."""
_FEW_READY_MADE_BLOCKS = 4
"""The first three decoder blocks of Qwen3-VL add features of its vision encoder."""
_SETUP = "set-up"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemoryTrace:
    """Peak of the live memory of a training step."""

    phase: str
    """Phase of the step with the peak."""
    parts: Mapping[str, float]
    """Part -> bytes at the peak."""

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


def trace_memory(
    stage: TrainingFields, load: Load, *, has_tower: bool, count: int, num_blocks: int
) -> MemoryTrace:
    """Trace the peak of a stage's training step on rank 0 of `count` ranks.

    Two models with few blocks are traced. The peak of every phase of a step is linear in the number
    of blocks, so the peaks of the whole model follow; the largest is the peak of the step.

    Args:
        stage: Training stage.
        load: Data of the stage, whose means make the micro-batch.
        has_tower: Whether the vision tower runs in the step.
        count: Number of ranks.
        num_blocks: Decoder blocks of the whole model.
    """
    connector = stage.model.connector
    inside = get_connector_class(connector.kind).block_period(connector.own_options)
    # Both traces end like the whole model.
    period = math.lcm(stage.compute.checkpoint_blocks or 1, inside)
    first = _FEW_BLOCKS if stage.model.ready_made is None else _FEW_READY_MADE_BLOCKS
    few = min(num_blocks, first + (num_blocks - first) % period)
    more = min(num_blocks, few + period * -(-_MORE_BLOCKS // period))
    trace = functools.partial(trace_step, stage, load, has_tower=has_tower, count=count)
    longer = trace(num_blocks=more)
    if more < num_blocks:
        shorter = trace(num_blocks=few)
        factor = (num_blocks - more) / (more - few)
        longer = {
            phase: {
                part: size + factor * (size - shorter[phase].get(part, 0.0))
                for part, size in parts.items()
            }
            for phase, parts in longer.items()
        }
    phase = max(longer, key=lambda name: sum(longer[name].values()))
    return MemoryTrace(phase=phase, parts=longer[phase])


def trace_step(
    stage: TrainingFields, load: Load, *, has_tower: bool, count: int, num_blocks: int
) -> dict[str, dict[str, float]]:
    """Run one training step on fake tensors with some of the decoder blocks.

    Returns:
        Phase -> part -> bytes at the peak of the phase.

    Raises:
        ConfigError: If the class of a ready-made model can't be traced.
    """
    mode, memory = FakeTensorMode(), LiveMemory()
    with fake_ranks(count) as mesh, kernels_of_a_gpu(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, micro_batch, integers = _fakes(
            stage, load, mode, mesh, has_tower=has_tower, num_blocks=num_blocks
        )
        with mode, integers, dropout_of_a_gpu():
            run_micro_batch(stage, model, micro_batch)  # compiles the blocks
            hold(memory, model, micro_batch)
            with memory, _sharding_parts(memory):
                run_step(stage, model, micro_batch, memory)
    return {
        phase: {part: float(size) for part, size in parts.items()}
        for phase, parts in memory.peaks.items()
        if phase not in ("", _SETUP)
    }


def _fakes(
    stage: TrainingFields,
    load: Load,
    mode: FakeTensorMode,
    mesh: DeviceMesh,
    *,
    has_tower: bool,
    num_blocks: int,
) -> tuple[AnyVlm, MicroBatch, AbstractContextManager[Any]]:
    """Return the fake model, a micro-batch, and the mode of tensors that are not fake."""
    if stage.model.ready_made is not None:
        ready_made = fake_ready_made(stage, mode, num_blocks=num_blocks)
        ready_batch = fake_ready_micro_batch(stage, ready_made.rules, load, mode)
        return ready_made, ready_batch, RealIntegers(mode)
    spec = stage.model
    vlm = empty_vlm(spec.tower, spec.connector, spec.language_model)
    vlm.model.tower = vlm.model.tower if has_tower else None
    micro_batch = fake_micro_batch(stage, vlm, load, mode)
    model = fake_model(stage, vlm, mode, mesh, num_blocks=num_blocks)
    return model, micro_batch, contextlib.nullcontext()


def hold(memory: LiveMemory, model: AnyVlm, micro_batch: MicroBatch) -> None:
    """Count the weights and the micro-batch, which are alive before the step."""
    for tensor in (*model.parameters(), *model.buffers()):
        is_trained = tensor.requires_grad
        memory.attribute(tensor, "trained weights" if is_trained else "frozen weights")
        for constant in constants_of(tensor):
            memory.attribute(constant, "frozen weights")
        if is_trained:
            memory.attribute_copies_of(tensor)
    for tensor in micro_batch.tensors().values():
        memory.attribute(tensor, "inputs")


def run_step(
    stage: TrainingFields, model: AnyVlm, micro_batch: MicroBatch, memory: LiveMemory
) -> None:
    """Run what `VlmModule.training_step` runs, in the phases of the step.

    The tensors may be fake or real; `memory` counts them while it is active.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(trained, stage.optim)
    _make_moments(optimizer, trained, memory)
    _watch(model, memory)
    _make_gradients(stage, trained, memory)
    for index in range(_NUM_MICRO_BATCHES):
        if isinstance(model, FSDPModule):
            is_last = index == _NUM_MICRO_BATCHES - 1
            reduce_gradients(model, is_last=is_last, once_per_step=stage.compute.reduce_once)
        memory.enter("tower", part="inputs")
        run_micro_batch(stage, model, micro_batch)
        for parameter in trained:
            if parameter.grad is not None:
                memory.attribute(parameter.grad, "gradients")
    memory.enter("update", part="update")
    torch.nn.utils.clip_grad_norm_(trained, stage.optim.grad_clip or float("inf"), foreach=True)
    optimizer.step()


def run_micro_batch(stage: TrainingFields, model: AnyVlm, micro_batch: MicroBatch) -> None:
    """Run the forward and backward pass of one micro-batch."""
    is_mixed = stage.precision.is_mixed
    # Lightning's plugin disables the cache of autocast, too.
    kind = micro_batch.input_ids_BT.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=is_mixed, cache_enabled=False):
        (model(micro_batch).loss_sum * 1.0).backward()


def _make_moments(
    optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], memory: LiveMemory
) -> None:
    """Make the state of the optimizer, which exists from the second step on."""
    memory.enter(_SETUP, part="optimizer")
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _make_gradients(stage: TrainingFields, trained: list[nn.Parameter], memory: LiveMemory) -> None:
    """Make DDP's gradients, which are its buckets and stay: it needs real data pointers."""
    if dist.get_world_size() == 1 or stage.compute.strategy.is_sharded:
        return
    with memory.creating("gradients"):
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)


def _watch(model: AnyVlm, memory: LiveMemory) -> None:
    """Enter a phase of the step when the model gets there."""
    decoder = decoder_and_output_layer(model.language_model)[0]

    def start_tower(*_: Any) -> None:
        memory.enter("tower", part="tower")

    def start_decoder(_module: nn.Module, _args: Any, kwargs: Any) -> None:
        memory.enter("blocks", part="activations")
        if kwargs["inputs_embeds"].requires_grad:
            kwargs["inputs_embeds"].register_hook(start_end)

    def start_loss(_module: nn.Module, _inputs: Any, output: Any) -> None:
        memory.enter("loss", part="loss")
        output.last_hidden_state.register_hook(start_backward)

    def start_backward(_gradient: torch.Tensor) -> None:
        memory.enter("backward of blocks", part="backward")

    def start_end(_gradient: torch.Tensor) -> None:
        memory.enter("backward of embeddings", part="backward")

    tower = vision_encoder(model) if isinstance(model, ReadyMadeVlm) else model.tower
    if tower is not None:
        tower.register_forward_pre_hook(start_tower)
    decoder.register_forward_pre_hook(start_decoder, with_kwargs=True)
    decoder.register_forward_hook(start_loss)


@contextlib.contextmanager
def _sharding_parts(memory: LiveMemory) -> Iterator[None]:
    """Attribute what FSDP2 gathers and reduces."""
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

    parts = {
        "unshard": "gathered weights",
        "wait_for_unshard": "gathered weights",
        "post_backward": "reduced gradients",
    }
    real = {name: getattr(FSDPParamGroup, name) for name in parts}

    def attributed(name: str) -> Callable[..., Any]:
        @functools.wraps(real[name])
        def run(*args: Any, **kwargs: Any) -> Any:
            with memory.creating(parts[name]):
                return real[name](*args, **kwargs)

        return run

    for name in parts:
        setattr(FSDPParamGroup, name, attributed(name))
    try:
        yield
    finally:
        for name, method in real.items():
            setattr(FSDPParamGroup, name, method)
