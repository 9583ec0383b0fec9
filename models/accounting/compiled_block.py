"""Decoder blocks that keep and recompute what torch.compile would, on fake tensors.

torch.compile traces a block with its backward pass and cuts the joint graph where the least memory
crosses from forward to backward (AOTAutograd's min-cut partitioner, after Inductor's passes on the
joint graph). Both run here without the code generation that follows.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._guards import detect_fake_mode
from torch.utils.checkpoint import checkpoint

from models.language.blocks import decoder_blocks


def partition_blocks(language_model: nn.Module) -> None:
    """Let each block run as the two graphs into which torch.compile would divide it, in place.

    Equal blocks share one partition, made at the first call. Blocks that are recomputed keep their
    inputs, as they do when the checkpoint is inside the compiled block.
    """
    compiled: dict[Any, Any] = {}
    for block in decoder_blocks(language_model):
        block.forward = _PartitionedForward(block, compiled)


class _PartitionedForward:
    """Forward pass of a block whose autograd graph is a single pair of traced graphs."""

    def __init__(self, block: nn.Module, compiled: dict[Any, Any]) -> None:
        self._block, self._compiled = block, compiled
        self._is_recomputed = bool(getattr(block, "gradient_checkpointing", False))
        block.gradient_checkpointing = False  # type: ignore[assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block, or keep its inputs only and run it again in the backward pass."""
        if self._is_recomputed and torch.is_grad_enabled():
            return checkpoint(partial(self._run, **kwargs), *args, use_reentrant=False)
        return self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        names, weights = zip(*self._block.named_parameters(), strict=True)
        states = [getattr(weight, "quant_state", None) for weight in weights]
        constants = [_tensors_of(state) for state in states]
        tensors = {name: value for name, value in kwargs.items() if _holds_tensors(value)}
        others = {name: value for name, value in kwargs.items() if name not in tensors}
        key = (*((tuple(arg.shape), arg.dtype) for arg in args), torch.is_grad_enabled())
        if key not in self._compiled:
            body = _Body(self._block)

            def run(weights: Any, constants: Any, args: Any, tensors: Any) -> Any:
                given = {}
                for name, weight, state, values in zip(
                    names, weights, states, constants, strict=True
                ):
                    given[f"block.{name}"] = weight
                    if state is not None:
                        weight.quant_state = _with_tensors(state, values)
                return torch.func.functional_call(body, given, args, {**tensors, **others})

            num_weights = len(names) + sum(len(values) for values in constants)
            self._compiled[key] = _partitioned(run, num_weights=num_weights)
        return self._compiled[key](list(weights), constants, args, tensors)


class _Body(nn.Module):
    """A block without its hooks, which run around the compiled graphs."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block's own forward pass."""
        return type(self.block).forward(self.block, *args, **kwargs)


def _partitioned(function: Callable[..., Any], *, num_weights: int) -> Callable[..., Any]:
    from torch._functorch._aot_autograd.utils import make_boxed_func
    from torch._functorch.aot_autograd import aot_function
    from torch._inductor.compile_fx import partition_fn
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V

    def run_as_is(gm: Any, example_inputs: Any) -> Any:
        del example_inputs
        return make_boxed_func(gm.forward)

    def partition(graph: Any, inputs: Any, **settings: Any) -> Any:
        settings["static_lifetime_input_indices"] = list(range(num_weights))
        with V.set_fake_mode(detect_fake_mode(inputs)):
            return partition_fn(graph, inputs, **settings)

    compiled: Callable[..., Any] = aot_function(
        function,
        fw_compiler=run_as_is,
        partition_fn=partition,
        decompositions=select_decomp_table(),
        num_params_buffers=num_weights,
    )
    return compiled


def _tensors_of(state: Any) -> dict[str, torch.Tensor]:
    """Return the constants of bitsandbytes' 4-bit state, which the graphs take as arguments."""
    if state is None:
        return {}
    own = {name: value for name, value in vars(state).items() if isinstance(value, torch.Tensor)}
    nested = _tensors_of(state.state2)
    return own | {f"state2.{name}": value for name, value in nested.items()}


def _with_tensors(state: Any, values: dict[str, torch.Tensor]) -> Any:
    """Return a 4-bit state with other constants."""
    new = copy.copy(state)
    new.state2 = copy.copy(state.state2)
    for name, value in values.items():
        is_nested = name.startswith("state2.")
        setattr(new.state2 if is_nested else new, name.removeprefix("state2."), value)
    return new


def _holds_tensors(value: Any) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    return bool(values) and all(isinstance(item, torch.Tensor) for item in values)
