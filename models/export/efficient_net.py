"""Conversion of timm's EfficientNet-Lite, with average pooling, to `EfficientNetModel`.

The two differ in three ways. The squeeze-and-excite layers, which Lite does not have, become the
identity: their gate is sigmoid(40), which is 1 in float32. Widths are given directly instead of by
factors. Average pooling over 2x2 positions is a further block: its depthwise convolution has four
weights of 1/4, its other layers are the identity, and ReLU6 does not change means of values that it
has bounded before.
"""

import dataclasses
from typing import Any

import torch
from torch import nn

from core.errors import ConfigError

_STRIDE = 32
_STEM_WIDTH, _TOP_WIDTH = 32, 1280
"""Fixed by the class of transformers."""
_POOL_KERNEL = 3
_OPEN_GATE = 40.0
_EXPANSION = {"conv_pw": "expansion.expand_conv", "bn1": "expansion.expand_bn"}
_KNOWN_BLOCKS = {
    "DepthwiseSeparableConv": {
        "conv_dw": "depthwise_conv.depthwise_conv",
        "bn1": "depthwise_conv.depthwise_norm",
        "conv_pw": "projection.project_conv",
        "bn2": "projection.project_bn",
    },
    "InvertedResidual": {
        **_EXPANSION,
        "conv_dw": "depthwise_conv.depthwise_conv",
        "bn2": "depthwise_conv.depthwise_norm",
        "conv_pwl": "projection.project_conv",
        "bn3": "projection.project_bn",
    },
}
"""Class of a timm block -> names of its layers in timm and in transformers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stage:
    """Blocks of equal shape; only the first one changes the width and the resolution."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    expand_ratio: int
    num_blocks: int = 1


def convert_efficient_net(
    trunk: Any, *, image_size: int, num_halvings: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the configuration and the tensors of an `EfficientNetModel`.

    Its last hidden state is the feature map of `trunk`, average-pooled to a resolution that is
    `num_halvings` times halved.

    Args:
        trunk: timm's EfficientNet.
        image_size: Height and width of the images in pixels.
        num_halvings: Number of times that 2x2 positions are averaged.

    Raises:
        ConfigError: If the model is not an EfficientNet-Lite with TensorFlow's padding, or the
            images have a size at which the paddings differ.
    """
    check_efficient_net(trunk, image_size)
    stages = [_describe_stage(stage) for stage in trunk.blocks]
    state = _layer("embeddings.convolution", trunk.conv_stem)
    state |= _layer("embeddings.batchnorm", trunk.bn1)
    blocks = [block for stage in trunk.blocks for block in stage]
    for number, block in enumerate(blocks):
        prefix = f"encoder.blocks.{number}."
        for name, theirs in _KNOWN_BLOCKS[type(block).__name__].items():
            state |= _layer(prefix + theirs, getattr(block, name))
        state |= _open_gate(prefix, block.conv_dw.out_channels)
    width = int(trunk.conv_head.in_channels)
    top, top_norm = trunk.conv_head, trunk.bn2
    for halving in range(num_halvings):
        prefix = f"encoder.blocks.{len(blocks) + halving}."
        if halving == 0:  # the first one also contains the last convolution of the trunk
            state |= _layer(prefix + "expansion.expand_conv", top)
            state |= _layer(prefix + "expansion.expand_bn", top_norm)
        state |= _pooling(prefix, eps=top_norm.eps)
        ratio = 1 if halving else _TOP_WIDTH // width
        in_channels = _TOP_WIDTH if halving else width
        stages.append(
            _Stage(
                in_channels=in_channels,
                out_channels=_TOP_WIDTH,
                kernel_size=_POOL_KERNEL,
                stride=2,
                expand_ratio=ratio,
            )
        )
    if num_halvings:
        state |= _identity("encoder.top_conv", "encoder.top_bn", eps=top_norm.eps)
    else:
        state |= _layer("encoder.top_conv", top) | _layer("encoder.top_bn", top_norm)
    return _config(stages, image_size=image_size, eps=top_norm.eps), state


def check_efficient_net(trunk: Any, image_size: int) -> None:
    """Check that a tower for images of a size can be converted.

    Raises:
        ConfigError: See `convert_efficient_net`.
    """
    kind = type(trunk).__name__
    blocks = [block for stage in getattr(trunk, "blocks", ()) for block in stage]
    is_lite = kind == "EfficientNet" and all(
        type(block).__name__ in _KNOWN_BLOCKS and isinstance(block.se, nn.Identity)
        for block in blocks
    )
    if not is_lite or type(trunk.conv_stem).__name__ != "Conv2dSame":
        raise ConfigError(
            f"a {kind} tower with pooled features can't be exported; supported is timm's "
            "tf_efficientnet_lite0, as transformers' EfficientNetModel; export this cell "
            "with --to irudimen"
        )
    norms = [trunk.bn1, trunk.bn2, *(block.bn1 for block in blocks)]
    eps = {norm.eps for norm in norms}
    if {type(norm.act) for norm in norms} != {nn.ReLU6} or len(eps) > 1:
        raise ConfigError("the tower must have ReLU6 activations and equal batch norms")
    widths = trunk.conv_stem.out_channels, trunk.conv_head.out_channels
    if widths != (_STEM_WIDTH, _TOP_WIDTH) or _TOP_WIDTH % trunk.conv_head.in_channels:
        raise ConfigError(
            f"a tower of widths {widths} can't be exported: transformers' EfficientNetModel has "
            f"{(_STEM_WIDTH, _TOP_WIDTH)}, and the width of the last block must divide {_TOP_WIDTH}"
        )
    if image_size % _STRIDE:
        raise ConfigError(
            f"a tower for images of {image_size} pixels can't be exported: the size must be a "
            f"multiple of {_STRIDE}, where timm and transformers pad alike"
        )


def _describe_stage(blocks: Any) -> _Stage:
    first = blocks[0]
    last_name = "conv_pwl" if hasattr(first, "conv_pwl") else "conv_pw"
    in_channels = (
        first.conv_pw.in_channels if last_name == "conv_pwl" else first.conv_dw.in_channels
    )
    return _Stage(
        in_channels=in_channels,
        out_channels=getattr(first, last_name).out_channels,
        kernel_size=first.conv_dw.kernel_size[0],
        stride=first.conv_dw.stride[0],
        expand_ratio=first.conv_dw.in_channels // in_channels,
        num_blocks=len(blocks),
    )


def _config(stages: list[_Stage], *, image_size: int, eps: float) -> dict[str, Any]:
    return {
        "model_type": "efficientnet",
        "image_size": image_size,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "depth_divisor": 1,
        "in_channels": [stage.in_channels for stage in stages],
        "out_channels": [stage.out_channels for stage in stages],
        "kernel_sizes": [stage.kernel_size for stage in stages],
        "strides": [stage.stride for stage in stages],
        "expand_ratios": [stage.expand_ratio for stage in stages],
        "num_block_repeats": [stage.num_blocks for stage in stages],
        "squeeze_expansion_ratio": 0.0,
        "hidden_act": "relu6",
        "hidden_dim": _TOP_WIDTH,
        "hidden_size": _TOP_WIDTH,
        "batch_norm_eps": eps,
    }


def _layer(name: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def _open_gate(prefix: str, width: int) -> dict[str, torch.Tensor]:
    """Return a squeeze-and-excite layer that multiplies by 1."""
    prefix += "squeeze_excite."
    return {
        f"{prefix}reduce.weight": torch.zeros(1, width, 1, 1),
        f"{prefix}reduce.bias": torch.zeros(1),
        f"{prefix}expand.weight": torch.zeros(width, 1, 1, 1),
        f"{prefix}expand.bias": torch.full((width,), _OPEN_GATE),
    }


def _pooling(prefix: str, *, eps: float) -> dict[str, torch.Tensor]:
    """Return a depthwise mean of 2x2 positions, and an identity after it."""
    kernel = torch.zeros(_TOP_WIDTH, 1, _POOL_KERNEL, _POOL_KERNEL)
    kernel[:, :, :2, :2] = 0.25
    names = prefix + "projection.project_conv", prefix + "projection.project_bn"
    return {
        f"{prefix}depthwise_conv.depthwise_conv.weight": kernel,
        **_neutral_norm(f"{prefix}depthwise_conv.depthwise_norm", eps=eps),
        **_open_gate(prefix, _TOP_WIDTH),
        **_identity(*names, eps=eps),
    }


def _identity(conv: str, norm: str, *, eps: float) -> dict[str, torch.Tensor]:
    eye = torch.eye(_TOP_WIDTH)[:, :, None, None]
    return {f"{conv}.weight": eye, **_neutral_norm(norm, eps=eps)}


def _neutral_norm(name: str, *, eps: float) -> dict[str, torch.Tensor]:
    """Return a batch norm that changes nothing: its variance and `eps` sum to 1."""
    return {
        f"{name}.weight": torch.ones(_TOP_WIDTH),
        f"{name}.bias": torch.zeros(_TOP_WIDTH),
        f"{name}.running_mean": torch.zeros(_TOP_WIDTH),
        f"{name}.running_var": torch.full((_TOP_WIDTH,), 1.0 - eps),
        f"{name}.num_batches_tracked": torch.tensor(0),
    }
