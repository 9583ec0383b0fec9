"""Batch norms of a frozen convolutional tower folded into its convolutions: half the CPU time.

In evaluation mode a batch norm scales and shifts each channel, which the weights before it can do.
"""

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval


def fold_batch_norms(module: nn.Module, example: torch.Tensor) -> int:
    """Fold in place every batch norm that reads what a convolution wrote; returns their number.

    Args:
        module: In evaluation mode; its activations behind the norms stay.
        example: An input, which shows who reads from whom.
    """
    pairs = _pairs(module, example)
    for conv_name, norm_name in pairs:
        conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            raise TypeError(f"{conv_name} and {norm_name} are no convolution and batch norm")
        module.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        # timm's norms carry dropout and activation inside.
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        module.set_submodule(norm_name, nn.Sequential(*rest))
    return len(pairs)


def _pairs(module: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms that read their output."""
    written: dict[int, tuple[str, torch.Tensor]] = {}
    pairs: list[tuple[str, str]] = []

    def watch(name: str, part: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(part, nn.Conv2d):
                written[id(output)] = (name, output)  # held, so that no other gets its id
            elif id(inputs[0]) in written:
                pairs.append((written[id(inputs[0])][0], name))

        return part.register_forward_hook(hook)

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    handles = [watch(n, part) for n, part in module.named_modules() if isinstance(part, kinds)]
    with torch.inference_mode():
        module(example)
    for handle in handles:
        handle.remove()
    return pairs
