"""Activation checkpointing and compilation of decoder blocks."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from core.errors import ConfigError
from models.language.generation import decoder_and_output_layer


def decoder_blocks(language_model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks, first to last.

    Raises:
        ConfigError: If the model does not store them in `layers`, as Llama does.
    """
    layers = getattr(decoder_and_output_layer(language_model)[0], "layers", None)
    if not isinstance(layers, nn.ModuleList):
        name = type(language_model).__name__
        raise ConfigError(f"{name} has no list of decoder blocks; use a Llama-like model")
    return list(layers)


def checkpoint_activations(language_model: nn.Module, *, every: int) -> int:
    """Recompute the activations of every n-th block in the backward pass; return their number.

    This sets the flag of Hugging Face's own blocks, which changes neither names nor hooks.

    Raises:
        ConfigError: If the blocks do not support it.
    """
    chosen = decoder_blocks(language_model)[::every] if every else []
    for block in chosen:
        if not hasattr(block, "gradient_checkpointing"):
            name = type(block).__name__
            raise ConfigError(f"{name} does not support recomputation; set checkpoint_blocks=0")
        block.gradient_checkpointing = True  # type: ignore[assignment]
        block._gradient_checkpointing_func = partial(  # type: ignore[assignment]
            checkpoint, use_reentrant=False
        )
        # Blocks recompute only in training mode; the mode of their submodules (dropout) stays.
        block.training = True
    return len(chosen)


def compile_blocks(language_model: nn.Module) -> None:
    """Compile each block in place; equal blocks share one compilation.

    DDP's own optimizer is disabled for the whole process: it would split every block with trained
    weights at its buckets, and compile once more.
    """
    torch._dynamo.config.optimize_ddp = False
    for block in decoder_blocks(language_model):
        block.compile(dynamic=None)
