"""Memory of a decoder block in forward and backward pass, counted on fake tensors."""

import copy
import dataclasses
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from core.precision import Precision
from models.accounting.compiled_block import partition_blocks
from models.accounting.fake_model import constants_of, dropout_of_a_gpu, fill_with_fakes
from models.accounting.live_memory import LiveMemory
from models.any_vlm import AnyVlm
from models.freezing import FreezePolicy, cast_all
from models.language.adapters import TuningConfig
from models.language.attention import AttentionKind, use_packed_attention
from models.language.blocks import decoder_blocks
from models.language.generation import decoder_and_output_layer


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlockMemory:
    """Bytes of one decoder block in a training step, without its weights and their gradients."""

    kept: int
    """Between forward and backward pass, including 16-bit copies of float32 weights."""
    working: int
    """More than before the backward pass, while it runs."""
    inputs: int
    """Input of the block, which is all that a recomputed block keeps."""


def block_memory(  # noqa: PLR0913 - the settings that it depends on
    vlm: AnyVlm,
    *,
    tuning: TuningConfig,
    policy: FreezePolicy,
    precision: Precision,
    is_sharded: bool,
    is_compiled: bool,
    num_tokens: int,
) -> BlockMemory:
    """Run the second of two blocks as a training stage does, and count what is alive.

    Attention is the varlen kernel, which keeps its inputs, its output and one number for each head
    and token; so does flex attention.

    Args:
        vlm: Model on the meta device, which is not changed.
        tuning: Fine-tuning method of stages that train the language model.
        policy: Parts that this stage trains.
        precision: Numeric precision.
        is_sharded: Whether FSDP2 holds the weights; it then casts them before the block runs.
        is_compiled: Whether the block is compiled.
        num_tokens: Tokens of a micro-batch.
    """
    is_mixed = precision.is_mixed
    model, mode = copy.deepcopy(vlm), FakeTensorMode()
    fill_with_fakes(model, mode, num_blocks=2, tuning=tuning, policy=policy, precision=precision)
    decoder: Any = decoder_and_output_layer(model.language_model)[0]
    use_packed_attention(decoder, AttentionKind.VARLEN)
    if is_compiled:
        partition_blocks(model.language_model)
    model.train()
    with mode, dropout_of_a_gpu():
        if is_sharded and is_mixed:
            cast_all(model, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed, cache_enabled=False):
            return _run_block(model.language_model, num_tokens, is_sharded=is_sharded)


def _run_block(language_model: Any, num_tokens: int, *, is_sharded: bool) -> BlockMemory:
    decoder: Any = decoder_and_output_layer(language_model)[0]
    first, second = decoder_blocks(language_model)
    dtype = language_model.get_input_embeddings().weight.dtype
    hidden_BTD = torch.empty(1, num_tokens, decoder.config.hidden_size, dtype=dtype)
    positions_BT = torch.arange(num_tokens)[None]
    angles = decoder.rotary_emb(hidden_BTD, positions_BT)
    arguments = {
        "position_embeddings": angles,
        "attention_mask": None,
        "position_ids": positions_BT,
        "cu_seqlens": torch.zeros(2, dtype=torch.int32),
        "max_seqlen": num_tokens,
    }
    hidden_BTD.requires_grad_()
    first(hidden_BTD, **arguments)  # compiles the blocks
    memory = LiveMemory()
    for parameter in language_model.parameters():
        # FSDP2 takes the gradients of a whole block at once; others are added to those before.
        if parameter.requires_grad and not is_sharded:
            parameter.grad = torch.zeros_like(parameter)
            memory.attribute(parameter.grad, "")
        for tensor in (parameter, *constants_of(parameter)):
            memory.attribute(tensor, "")
    for tensor in (*angles, positions_BT, hidden_BTD):
        memory.attribute(tensor, "")
    with memory:
        hidden_BTD = first(hidden_BTD, **arguments)
        hidden_BTD.register_hook(lambda _gradient: memory.enter("first block", part=""))
        before, inputs = memory.live.total(), hidden_BTD.nbytes
        hidden_BTD = second(hidden_BTD, **arguments)  # its input lives on if the block keeps it
        after = memory.live.total()
        memory.enter("second block", part="")
        hidden_BTD.backward(torch.empty_like(hidden_BTD))
    working = sum(memory.peaks["second block"].values()) - after
    return BlockMemory(kept=after - before, working=working, inputs=inputs)
