"""A wider Llama that computes the same: further channels of its residual stream stay zero.

RMSNorm divides by the root of the mean square of all channels. With D' instead of D channels, of
which only D differ from zero, that mean is D / D' times as large. Multiplying the weights of norms
by sqrt(D / D') and their epsilon by D / D' cancels it.
"""

from collections.abc import Mapping
from typing import Any

import torch

from core.errors import ConfigError

_INPUTS = (
    *("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight"),
    *("embed_tokens.weight", "lm_head.weight"),
)
_OUTPUTS = ("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")
_NORMS = ("norm.weight", "layernorm.weight")


def widen_llama(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor], *, width: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the configuration and the tensors of an equivalent Llama with a wider residual stream.

    Args:
        config: Configuration of a LlamaForCausalLM.
        state: Its tensors (`model.*`, `lm_head.weight`).
        width: Number of channels, at least the present one.

    Raises:
        ConfigError: If the model is not a Llama.
    """
    old = int(config["hidden_size"])
    if width == old:
        return dict(config), dict(state)
    if config["model_type"] != "llama":
        raise ConfigError(
            f"a language model of class '{config['model_type']}' and width {old} can't be exported "
            f"with this tower, which needs a Llama or a width of at least {width}"
        )
    heads = int(config["num_attention_heads"])
    wider = {
        **config,
        "hidden_size": width,
        "head_dim": config.get("head_dim") or old // heads,
        "rms_norm_eps": float(config["rms_norm_eps"]) * old / width,
    }
    scale = (old / width) ** 0.5
    return wider, {name: _widen(name, value, width, scale) for name, value in state.items()}


def _widen(name: str, value: torch.Tensor, width: int, scale: float) -> torch.Tensor:
    value = value.detach()
    if name.endswith(_NORMS):
        wide = value.new_zeros(width)
        wide[: len(value)] = value * scale
        return wide
    if name.endswith(_INPUTS):
        wide = value.new_zeros(value.shape[0], width)
        wide[:, : value.shape[1]] = value
        return wide
    if name.endswith(_OUTPUTS):
        wide = value.new_zeros(width, *value.shape[1:])
        wide[: value.shape[0]] = value
        return wide
    return value
