"""CLIP towers in Hugging Face format (`CLIPVisionModel`), from a folder or the hub."""

import json
import logging
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.utils import cached_file

from core.errors import CheckpointError, ConfigError
from core.io.hub import LOADING_ERRORS, explain_hub_error, hub_arguments, is_hub_name
from models.towers.image_transform import CropRule, ImageTransform, ResizeMode
from models.towers.vision_tower import VisionTower, VisionTowerConfig, register_tower

_CONFIG_FILE, _IMAGES_FILE = "config.json", "preprocessor_config.json"
_BICUBIC = 3
_CLIP_TYPES = ("clip", "clip_vision_model")
_BUNDLED_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "openai/clip-vit-large-patch14-336": {
        _CONFIG_FILE: {
            "model_type": "clip",
            "vision_config": {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 336,
                "patch_size": 14,
                "projection_dim": 768,
                "hidden_act": "quick_gelu",
            },
        },
        _IMAGES_FILE: {
            "size": 336,
            "crop_size": 336,
            "resample": _BICUBIC,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    }
}
"""Settings of LLaVA's tower, so that planning needs no network; weights are never bundled."""


@register_tower("transformers")
class ClipTower(VisionTower):
    """Vision part of a Hugging Face CLIP model, e.g. openai/clip-vit-large-patch14-336."""

    @classmethod
    def load(cls, config: VisionTowerConfig) -> Self:
        """Load the vision model; text weights in the same file are ignored."""
        source, revision = config.source, config.hub_revision
        visual = _load_model(source, revision)
        return cls(visual, config, _read_transform(source, revision))

    @classmethod
    def empty(cls, config: VisionTowerConfig) -> Self:
        """Build the model from its configuration."""
        source, revision = config.source, config.hub_revision
        with torch.device("meta"):
            visual: nn.Module = CLIPVisionModel(_read_vision_config(source, revision))
        return cls(visual, config, _read_transform(source, revision))

    @classmethod
    def count_image_tokens(cls, config: VisionTowerConfig) -> int:
        """Count the tokens from the configuration; nothing is built."""
        vision = _read_vision_config(config.source, config.hub_revision)
        return _count_patches(vision)

    def clip_vision_config(self) -> dict[str, Any]:
        """Return the model's own configuration."""
        visual: Any = self.visual
        config: dict[str, Any] = visual.config.to_dict()
        return config

    def clip_vision_weights(self) -> dict[str, torch.Tensor]:
        """Return the model's own tensors; transformers 4 adds a prefix that 5 does not."""
        state = self.visual.state_dict()
        return {name.removeprefix("vision_model."): value for name, value in state.items()}

    def _feature_shape(self) -> tuple[int, int]:
        visual: Any = self.visual
        return _count_patches(visual.config), visual.config.hidden_size

    def _extract(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        # Until transformers 5.1 the modules are one level deeper.
        visual: Any = getattr(self.visual, "vision_model", self.visual)
        states_NPE: torch.Tensor = visual.pre_layrnorm(visual.embeddings(pixels_NCHW))
        for block in visual.encoder.layers[:-1]:  # the result of the last one is not used
            states_NPE = block(states_NPE, None)
        return states_NPE[:, 1:]


def _load_model(source: str, revision: str) -> nn.Module:
    _read_vision_config(source, revision)  # rejects other architectures with a clear message
    arguments = hub_arguments(source, revision, kind="tower")
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)  # transformers lists the unused weights of the text model
    try:
        model, info = CLIPVisionModel.from_pretrained(
            source,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
            **arguments,
        )
    except LOADING_ERRORS as error:
        reason = explain_hub_error(error, source, revision)
        raise CheckpointError(f"tower '{source}' can't be loaded: {reason}") from error
    finally:
        logging.disable(threshold)
    if random := sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])):
        raise CheckpointError(
            f"tower '{source}': {len(random)} weights are missing or do not fit, "
            f"e.g. {random[0]}; they would stay random"
        )
    module: nn.Module = model
    return module


def _count_patches(vision: CLIPVisionConfig) -> int:
    num_patches: int = (vision.image_size // vision.patch_size) ** 2
    return num_patches


def _read_transform(source: str, revision: str) -> ImageTransform:
    """Return the transform that matches the checkpoint's image processor.

    Raises:
        ConfigError: If the processor does something that `ImageTransform` does not support.
        CheckpointError: If its settings are missing or inaccessible.
    """
    settings = _read_json(source, revision, _IMAGES_FILE)
    size, mode = _square_size(settings)
    expected = {
        "size": _read_vision_config(source, revision).image_size,
        "resample": _BICUBIC,
        "steps": True,
        "scale": True,
    }
    found = {
        "size": size,
        "resample": settings.get("resample", _BICUBIC),
        "steps": all(settings.get(f"do_{step}", True) for step in ("resize", "normalize")),
        "scale": abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) < 1e-6  # noqa: PLR2004
        and settings.get("do_rescale", True),
    }
    if found != expected:
        raise ConfigError(
            f"tower '{source}' requires unsupported image preprocessing: {found}; supported: "
            f"{expected}. See its {_IMAGES_FILE}"
        )
    return ImageTransform(
        size=size,
        mean=tuple(settings["image_mean"]),
        std=tuple(settings["image_std"]),
        resize_mode=mode,
        crop=CropRule.FLOOR,
    )


def _square_size(settings: dict[str, Any]) -> tuple[int, ResizeMode]:
    """Return the side of the square and the resize mode; the side is 0 if there is no square."""
    size, crop = settings.get("size"), settings.get("crop_size")
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    size = {"shortest_edge": size} if isinstance(size, int) else size
    if not isinstance(size, dict):
        return 0, ResizeMode.SHORTEST
    if "shortest_edge" in size:
        side = int(size["shortest_edge"])
        square = {"height": side, "width": side}
        is_cropped = settings.get("do_center_crop", True) and crop == square
        return (side if is_cropped else 0), ResizeMode.SHORTEST
    height, width = size.get("height"), size.get("width")
    is_square = height == width and not settings.get("do_center_crop", False)
    return (int(height) if is_square and height else 0), ResizeMode.SQUASH


def _read_vision_config(source: str, revision: str) -> CLIPVisionConfig:
    settings = _read_json(source, revision, _CONFIG_FILE)
    if settings.get("model_type") not in _CLIP_TYPES:
        raise ConfigError(
            f"tower '{source}' is a {settings.get('model_type')} model; tower.library=transformers "
            f"supports {' and '.join(_CLIP_TYPES)}. Use open_clip or timm for other towers"
        )
    return CLIPVisionConfig(**settings.get("vision_config", settings))


def _read_json(source: str, revision: str, name: str) -> dict[str, Any]:
    arguments = hub_arguments(source, revision, kind="tower")
    if is_hub_name(source) and source in _BUNDLED_SETTINGS:
        return _BUNDLED_SETTINGS[source][name]
    if not is_hub_name(source) and not (Path(source) / name).is_file():
        raise CheckpointError(f"tower folder '{source}' has no {name}")
    try:
        path = cached_file(source, name, **arguments)
    except LOADING_ERRORS as error:
        reason = explain_hub_error(error, source, revision)
        raise CheckpointError(f"no {name} of tower '{source}': {reason}") from error
    content: dict[str, Any] = json.loads(Path(str(path)).read_bytes())
    return content
