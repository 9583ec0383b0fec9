"""Conversion of our model to a stock Hugging Face `LlavaForConditionalGeneration`.

Weight names are those of transformers 4, which version 5 also reads (it writes other names, which 4
leaves randomly initialised with only a warning). Shape legend: core/samples.py.
"""

import logging

import torch
from transformers import CLIPVisionConfig, LlavaConfig

from core.chat.format import ChatFormat
from core.errors import ConfigError
from models.architectures.linear import LinearConnector
from models.architectures.mlp2x_gelu import MlpConnector
from models.connector import Connector
from models.export.stock import HfModel, model_config, text_config, text_weights, written
from models.towers.vision_tower import VisionTower
from models.vlm import VisionLanguageModel

_LOG = logging.getLogger("irudimen.export")
_FEATURE_LAYER = -2
_TOWER, _LM, _PROJECTOR = "vision_tower.vision_model.", "language_model.", "multi_modal_projector."


def to_llava(
    model: VisionLanguageModel, tower: VisionTower, chat: ChatFormat, *, dtype: torch.dtype
) -> HfModel:
    """Convert a model with the penultimate features of a CLIP ViT.

    Raises:
        ConfigError: If stock LLaVA has no counterpart for a part.
    """
    language_model = model.language_model
    model_width = int(language_model.config.hidden_size)
    act, projector, warnings = projector_weights(model.connector, model_width=model_width)
    state = {_TOWER + name: value for name, value in tower.clip_vision_weights().items()}
    state |= {_PROJECTOR + name: value for name, value in projector.items()}
    state |= {_LM + name: value for name, value in text_weights(language_model).items()}
    vision_config = CLIPVisionConfig(**tower.clip_vision_config())
    defaults = LlavaConfig(
        vision_config=vision_config,
        image_token_index=model.image_token_id,
        projector_hidden_act=act,
        vision_feature_select_strategy="default",
        vision_feature_layer=_FEATURE_LAYER,
        image_seq_length=tower.num_image_tokens,
        tie_word_embeddings=False,
    ).to_dict()
    config = model_config(
        defaults,
        text_config(language_model, chat),
        chat,
        class_name="LlavaForConditionalGeneration",
        image_token_id=model.image_token_id,
        dtype=dtype,
    )
    processor = {
        "patch_size": vision_config.patch_size,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,  # the class token, which the strategy drops
    }
    return HfModel(
        config=config, state=written(state, dtype), processor=processor, warnings=warnings
    )


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
