"""Conversion of our model to a stock Hugging Face `LlavaForConditionalGeneration`.

Weight names are those of transformers 4, which version 5 also reads (it writes other names, which 4
leaves randomly initialised with only a warning). Shape legend: core/samples.py.
"""

import copy
import dataclasses
import logging
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlavaConfig, PreTrainedModel

from core.chat.format import ChatFormat
from core.errors import ConfigError
from models.architectures.linear import LinearConnector
from models.architectures.mlp2x_gelu import MlpConnector
from models.connector import Connector
from models.vlm import VisionLanguageModel

_LOG = logging.getLogger("irudimen.export")
_FEATURE_LAYER = -2
_TOWER, _LM, _PROJECTOR = "vision_tower.vision_model.", "language_model.", "multi_modal_projector."


@dataclasses.dataclass(frozen=True, kw_only=True)
class HfModel:
    """Content of config.json and the safetensors file of a stock model folder."""

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    warnings: tuple[str, ...] = ()
    """Restrictions for programs other than transformers."""


def to_hugging_face(
    model: VisionLanguageModel, chat: ChatFormat, *, dtype: torch.dtype = torch.float32
) -> HfModel:
    """Convert a complete model, including its tower.

    The tensors may share memory with those of the model if these are on the CPU in `dtype`.

    Raises:
        ConfigError: If stock LLaVA has no counterpart for a part.
    """
    tower = model.tower
    if tower is None:
        raise ConfigError("this model runs on cached features; load its tower to export it")
    language_model = model.language_model
    model_width = int(language_model.config.hidden_size)
    act, projector, warnings = projector_weights(model.connector, model_width=model_width)
    state = {_TOWER + name: value for name, value in tower.clip_vision_weights().items()}
    state |= {_PROJECTOR + name: value for name, value in projector.items()}
    state |= _language_model_weights(language_model)
    name = str(dtype).removeprefix("torch.")
    config = {
        **LlavaConfig(
            vision_config=CLIPVisionConfig(**tower.clip_vision_config()),
            image_token_index=model.image_token_id,
            projector_hidden_act=act,
            vision_feature_select_strategy="default",
            vision_feature_layer=_FEATURE_LAYER,
            image_seq_length=tower.num_image_tokens,
            tie_word_embeddings=False,
        ).to_dict(),
        "text_config": text_config(language_model, chat),
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_id": model.image_token_id,
        "image_token_index": model.image_token_id,
        "pad_token_id": chat.pad_token_id,
        "dtype": name,
        "torch_dtype": name,
    }
    converted = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
    return HfModel(config=config, state=converted, warnings=warnings)


def projector_weights(
    connector: Connector, *, model_width: int
) -> tuple[str, dict[str, torch.Tensor], tuple[str, ...]]:
    """Return the activation, tensors and warnings of LLaVA's two-layer projector.

    A linear connector W is represented exactly because gelu(x) - gelu(-x) = x: the first layer
    computes [x, -x, 0], the second applies [W, -W, 0]. That needs 2 E <= D.
    """
    if isinstance(connector, MlpConnector):
        return "gelu", dict(connector.state_dict()), ()
    if not isinstance(connector, LinearConnector):
        raise ConfigError(
            f"{type(connector).__name__} has no counterpart in stock LLaVA, which has a projector "
            "of two layers; no class of transformers joins a CLIP ViT and this language model in "
            "this way (docs/reference/architectures.md); chat with it through experiments.chat"
        )
    weight_DE, bias_D = connector.proj.weight.detach(), connector.proj.bias.detach()
    width = connector.vision_width
    eye_EE = torch.eye(width, dtype=weight_DE.dtype, device=weight_DE.device)
    first_DE = weight_DE.new_zeros(model_width, width)
    second_DD = weight_DE.new_zeros(model_width, model_width)
    tensors = {"linear_1.bias": torch.zeros_like(bias_D), "linear_2.bias": bias_D}
    tensors |= {"linear_1.weight": first_DE, "linear_2.weight": second_DD}
    if 2 * width <= model_width:
        first_DE[:width], first_DE[width : 2 * width] = eye_EE, -eye_EE
        second_DD[:, :width], second_DD[:, width : 2 * width] = weight_DE, -weight_DE
        return "gelu", tensors, ()
    if width > model_width:
        raise ConfigError(
            f"a linear connector from {width} to {model_width} does not fit LLaVA's projector, "
            "whose hidden width is the language model's; train with model.connector.kind=mlp2x_gelu"
        )
    first_DE[:width], second_DD[:, :width] = eye_EE, weight_DE
    warning = (
        f"projector_hidden_act='linear': twice the vision width ({width}) exceeds the language "
        f"model's ({model_width}). transformers supports this; llama.cpp and other programs that "
        "always apply GELU give wrong answers"
    )
    _LOG.warning(warning)
    return "linear", tensors, (warning,)


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


def _language_model_weights(language_model: PreTrainedModel) -> dict[str, torch.Tensor]:
    state = {_LM + name: value for name, value in language_model.state_dict().items()}
    # A tied output layer is copied: files hold no shared tensors.
    state[_LM + "lm_head.weight"] = language_model.get_output_embeddings().weight.detach().clone()
    unexpected = [key for key in state if not key.startswith((_LM + "model.", _LM + "lm_head."))]
    if unexpected:
        raise ConfigError(
            f"language model tensor '{unexpected[0]}' has no counterpart in LLaVA; merge "
            "adapters first, and use a Llama-like model"
        )
    return state
