"""Common parts of conversions to stock Hugging Face models: their result, the language model."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from core.chat.format import ChatFormat
from core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class HfModel:
    """Content of config.json and the safetensors file of a stock model folder."""

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    processor: Mapping[str, Any]
    """Arguments of `LlavaProcessor` from which it counts the placeholders of an image."""
    warnings: tuple[str, ...] = ()
    """Restrictions for programs other than transformers."""

    @property
    def class_name(self) -> str:
        """Class of transformers."""
        return str(self.config["architectures"][0])


def model_config(
    defaults: Mapping[str, Any],
    text: Mapping[str, Any],
    chat: ChatFormat,
    *,
    class_name: str,
    image_token_id: int,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Return the content of config.json from the class's own settings and the text model's."""
    name = str(dtype).removeprefix("torch.")
    return {
        **defaults,
        "text_config": dict(text),
        "architectures": [class_name],
        "image_token_id": image_token_id,
        "image_token_index": image_token_id,
        "pad_token_id": chat.pad_token_id,
        "dtype": name,
        "torch_dtype": name,
    }


def written(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return tensors as they are written: on the CPU, floating-point ones in `dtype`."""
    return {
        name: value.detach()
        .to("cpu", dtype if value.is_floating_point() else value.dtype)
        .contiguous()
        for name, value in state.items()
    }


def text_config(language_model: PreTrainedModel, chat: ChatFormat) -> dict[str, Any]:
    """Return the language model's configuration with rotary settings for versions 4 and 5."""
    config: dict[str, Any] = copy.deepcopy(language_model.config.to_dict())
    rope = dict(config.get("rope_parameters") or {})
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        config["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
    # A tied output layer is written too: versions differ in which of two flags they read.
    config["tie_word_embeddings"] = False
    config["eos_token_id"] = chat.end_token_id
    config["pad_token_id"] = chat.pad_token_id
    for name in ("_name_or_path", "transformers_version", "quantization_config"):
        config.pop(name, None)
    return config


def text_weights(language_model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a language model as `model.*` and `lm_head.weight`.

    Raises:
        ConfigError: If there are others, e.g. those of adapters.
    """
    state = dict(language_model.state_dict())
    # A tied output layer is copied: files hold no shared tensors.
    state["lm_head.weight"] = language_model.get_output_embeddings().weight.detach().clone()
    unexpected = [key for key in state if not key.startswith(("model.", "lm_head."))]
    if unexpected:
        raise ConfigError(
            f"language model tensor '{unexpected[0]}' has no counterpart in LLaVA; merge "
            "adapters first, and use a Llama-like model"
        )
    return state
