"""Conversion of our model to the stock class of transformers that computes the same."""

import torch

from core.chat.format import ChatFormat
from core.errors import ConfigError
from models.export.fast_vlm import to_fast_vlm
from models.export.llava import to_llava
from models.export.stock import HfModel
from models.towers.vision_tower import TowerFeature
from models.vlm import VisionLanguageModel


def to_hugging_face(
    model: VisionLanguageModel, chat: ChatFormat, *, dtype: torch.dtype = torch.float32
) -> HfModel:
    """Convert a complete model, including its tower.

    The tensors may share memory with those of the model if these are on the CPU in `dtype`.

    Raises:
        ConfigError: If no stock class has a counterpart for a part.
    """
    if model.tower is None:
        raise ConfigError("this model runs on cached features; load its tower to export it")
    is_grid = model.tower.config.feature is TowerFeature.POOLED_GRID
    return (to_fast_vlm if is_grid else to_llava)(model, model.tower, chat, dtype=dtype)
