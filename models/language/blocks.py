"""What is done to the decoder blocks of a language model for speed and memory."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from core.errors import ConfigError
from models.language.generation import parts_of


def decoder_blocks(language_model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, first to last.

    Raises:
        ConfigError: a model that doesn't keep them in `layers`, as Llama's class does.
    """
    layers = getattr(parts_of(language_model)[0], "layers", None)
    if not isinstance(layers, nn.ModuleList):
        name = type(language_model).__name__
        raise ConfigError(f"{name} has no list of decoder blocks; use a Llama-like model")
    return list(layers)


def checkpoint_activations(language_model: nn.Module, *, every: int) -> int:
    """Recompute the activations of every n-th block in the backward pass; returns their number.

    Hugging Face's blocks do it themselves when told so; names and hooks stay what they were.

    Raises:
        ConfigError: blocks that can't be told so.
    """
    chosen = decoder_blocks(language_model)[::every] if every else []
    for block in chosen:
        if not hasattr(block, "gradient_checkpointing"):
            name = type(block).__name__
            raise ConfigError(f"{name} can't recompute its activations; set checkpoint_blocks=0")
        block.gradient_checkpointing = True  # type: ignore[assignment]
        block._gradient_checkpointing_func = partial(  # type: ignore[assignment]
            checkpoint, use_reentrant=False
        )
        # Blocks recompute in training mode only; what is inside (dropout) keeps its mode.
        block.training = True
    return len(chosen)


def compile_blocks(language_model: nn.Module) -> None:
    """torch.compile of each block in place: one compilation serves all, as they are alike."""
    for block in decoder_blocks(language_model):
        block.compile(dynamic=None)
