"""Conversion of a model with a convolutional tower to `FastVlmForConditionalGeneration`.

That class of transformers has a vision tower of any class, whose feature map it flattens to tokens,
and a projector of two layers with GELU between them. Here the tower is an `EfficientNetModel` that
also averages the map to the cells of one grid. The projector is the head of our tower (two layers
with GELU) together with the linear connector: the second layers of both are one matrix. Its hidden
layer is as wide as the language model, which is widened with zeros if it is narrower than the head.

Shape legend: core/samples.py; M = hidden width of the head, F = width of the feature map.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import EfficientNetConfig, FastVlmConfig

from core.chat.format import ChatFormat
from core.errors import ConfigError
from models.architectures.linear import LinearConnector
from models.export.efficient_net import check_efficient_net, convert_efficient_net
from models.export.stock import HfModel, model_config, text_config, text_weights, written
from models.export.widening import widen_llama
from models.towers.vision_tower import VisionTower
from models.vlm import VisionLanguageModel

_MODEL, _OUTPUT = "model.", "lm_head.weight"
_STRIDE = 32


def to_fast_vlm(
    model: VisionLanguageModel, tower: VisionTower, chat: ChatFormat, *, dtype: torch.dtype
) -> HfModel:
    """Convert a model whose tower gives the cells of one grid.

    Raises:
        ConfigError: If the grids, the tower, the connector or the data type have no counterpart.
    """
    if dtype is not torch.float32:
        # Products of two matrices can't be rounded to the values of the rounded factors.
        raise ConfigError("a cell with tower.feature=pooled_grid is exported with --dtype float32")
    visual: Any = tower.visual
    size = tower.transform.size
    check_efficient_net(visual.trunk, size)
    num_halvings = count_halvings(size // _STRIDE, tower.config.grids)
    vision, vision_weights = convert_efficient_net(
        visual.trunk, image_size=size, num_halvings=num_halvings
    )
    text = text_config(model.language_model, chat)
    width = max(int(text["hidden_size"]), _head_layers(visual.head)[0].out_features)
    projector = projector_weights(visual.head, model.connector, width=width)
    text, text_state = widen_llama(text, text_weights(model.language_model), width=width)
    state = {f"model.vision_tower.{name}": value for name, value in vision_weights.items()}
    state |= {f"model.multi_modal_projector.{name}": value for name, value in projector.items()}
    state[_OUTPUT] = text_state.pop(_OUTPUT)
    state |= {
        f"model.language_model.{name.removeprefix(_MODEL)}": value
        for name, value in text_state.items()
    }
    defaults = FastVlmConfig(
        vision_config=EfficientNetConfig(**vision),
        image_token_index=model.image_token_id,
        image_seq_length=tower.num_image_tokens,
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    ).to_dict()
    config = model_config(
        defaults,
        text,
        chat,
        class_name="FastVlmForConditionalGeneration",
        image_token_id=model.image_token_id,
        dtype=dtype,
    )
    processor = {
        "patch_size": size // tower.config.grids[0],
        "vision_feature_select_strategy": "full",
        "num_additional_image_tokens": 0,
    }
    return HfModel(config=config, state=written(state, dtype), processor=processor)


def count_halvings(side: int, grids: Sequence[int]) -> int:
    """Return how often a square map is halved to get the cells of the only grid.

    Raises:
        ConfigError: If there are several grids, or the map can't be halved to the grid.
    """
    possible = [side]
    while possible[-1] % 2 == 0:
        possible.append(possible[-1] // 2)
    if len(grids) != 1 or grids[0] not in possible:
        choices = " or ".join(f"[{size}]" for size in reversed(possible))
        raise ConfigError(
            f"a tower with model.tower.grids={list(grids)} can't be exported: FastVLM, the class "
            f"of transformers for convolutional towers, has the cells of one grid; train with "
            f"model.tower.grids={choices}, or export this cell with --to irudimen"
        )
    return possible.index(grids[0])


def projector_weights(
    head: nn.Module, connector: nn.Module, *, width: int
) -> dict[str, torch.Tensor]:
    """Return the tensors of FastVLM's projector: the head, then the connector, in `width` channels.

    Raises:
        ConfigError: If the head has not two layers, or the connector not one.
    """
    first, second = _head_layers(head)
    if not isinstance(connector, LinearConnector):
        raise ConfigError(
            "a convolutional tower is exported with model.connector.kind=linear only: FastVLM's "
            "projector has two layers, which the head of the tower needs; use --to irudimen"
        )
    weight_DE, bias_D = connector.proj.weight.double(), connector.proj.bias.double()
    product_DM = weight_DE @ second.weight.double()
    if second.bias is not None:
        bias_D = bias_D + weight_DE @ second.bias.double()
    first_weight = first.weight.new_zeros(width, first.in_features)
    first_bias = first.weight.new_zeros(width)
    second_weight, second_bias = first.weight.new_zeros(width, width), torch.zeros_like(first_bias)
    first_weight[: first.out_features] = first.weight
    if first.bias is not None:
        first_bias[: first.out_features] = first.bias
    second_weight[: len(bias_D), : first.out_features] = product_DM.float()
    second_bias[: len(bias_D)] = bias_D.float()
    return {
        "linear_1.weight": first_weight,
        "linear_1.bias": first_bias,
        "linear_2.weight": second_weight,
        "linear_2.bias": second_bias,
    }


def _head_layers(head: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """Return both layers of the tower's head, between which GELU is computed."""
    layers = [part for part in head.modules() if isinstance(part, nn.Linear)]
    acts = [part for part in head.modules() if isinstance(part, nn.GELU)]
    if len(layers) != 2 or [act.approximate for act in acts] != ["none"]:  # noqa: PLR2004
        raise ConfigError(
            "the tower has another head than two layers with GELU (timm_proj: mlp); it can't be "
            "exported as FastVLM"
        )
    return layers[0], layers[1]
