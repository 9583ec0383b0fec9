"""Vision towers in Hugging Face's own format: CLIPVisionModel, from a folder or the hub."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.utils import cached_file

from core.errors import CheckpointError, ConfigError
from core.io.hub import explain, hub_arguments, is_hub_name
from models.towers.image_transform import CropRule, ImageTransform, ResizeMode

_CONFIG_FILE, _IMAGES_FILE = "config.json", "preprocessor_config.json"
_BICUBIC = 3
_CLIP_TYPES = ("clip", "clip_vision_model")
_KNOWN: dict[str, dict[str, dict[str, Any]]] = {
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
"""What LLaVA's tower says of itself, so that plans need no network; weights are never guessed."""


def load_clip_vision(source: str, revision: str) -> nn.Module:
    """The whole vision model; text weights in the same file are left alone.

    Raises:
        CheckpointError: nothing there, no access, or weights that would stay random.
        ConfigError: a hub name without revision, or no CLIP.
    """
    read_shape(source, revision)  # a clear refusal of other architectures
    arguments = hub_arguments(source, revision, kind="tower")
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it lists the text model's weights, which nobody misses
    try:
        model, info = CLIPVisionModel.from_pretrained(
            source,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
            **arguments,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = explain(error, source, revision)
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


def empty_clip_vision(source: str, revision: str) -> nn.Module:
    """The same model on the meta device, from its configuration alone."""
    with torch.device("meta"):
        model: nn.Module = CLIPVisionModel(_vision_config(source, revision))
    return model


def penultimate_states(visual: Any, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """Patch tokens (N, P, E) of the second-to-last block, before any final norm."""
    states = visual(pixel_values=pixels_NCHW, output_hidden_states=True).hidden_states
    features_NPE: torch.Tensor = states[-2][:, 1:]
    return features_NPE


def read_shape(source: str, revision: str) -> tuple[int, int]:
    """Number and width of the patch tokens, from the configuration alone.

    Raises:
        CheckpointError, ConfigError: as `load_clip_vision`.
    """
    vision = _vision_config(source, revision)
    return (vision.image_size // vision.patch_size) ** 2, vision.hidden_size


def read_transform(source: str, revision: str) -> ImageTransform:
    """What the checkpoint's image processor does, as our transform.

    Raises:
        ConfigError: the processor does something our transform can't.
        CheckpointError: as `load_clip_vision`.
    """
    settings = _read_json(source, revision, _IMAGES_FILE)
    size, mode = _target_size(settings)
    wanted = {
        "size": _vision_config(source, revision).image_size,
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
    if found != wanted:
        raise ConfigError(
            f"tower '{source}' wants images that this house can't make: {found}, can {wanted}; "
            f"see its {_IMAGES_FILE}"
        )
    return ImageTransform(
        size=size,
        mean=tuple(settings["image_mean"]),
        std=tuple(settings["image_std"]),
        resize_mode=mode,
        crop=CropRule.FLOOR,
    )


def _target_size(settings: dict[str, Any]) -> tuple[int, ResizeMode]:
    """Side of the square and how it is reached; 0 if it isn't a square of one size."""
    size, crop = settings.get("size"), settings.get("crop_size")
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    size = {"shortest_edge": size} if isinstance(size, int) else size
    if not isinstance(size, dict):
        return 0, ResizeMode.SHORTEST
    if "shortest_edge" in size:
        side = int(size["shortest_edge"])
        is_cropped = settings.get("do_center_crop", True) and crop == {
            "height": side,
            "width": side,
        }
        return (side if is_cropped else 0), ResizeMode.SHORTEST
    height, width = size.get("height"), size.get("width")
    is_square = height == width and not settings.get("do_center_crop", False)
    return (int(height) if is_square and height else 0), ResizeMode.SQUASH


def _vision_config(source: str, revision: str) -> CLIPVisionConfig:
    settings = _read_json(source, revision, _CONFIG_FILE)
    if settings.get("model_type") not in _CLIP_TYPES:
        raise ConfigError(
            f"tower '{source}' is a {settings.get('model_type')}; tower.library=transformers takes "
            f"{' or '.join(_CLIP_TYPES)}. For other towers see open_clip and timm"
        )
    return CLIPVisionConfig(**settings.get("vision_config", settings))


def _read_json(source: str, revision: str, name: str) -> dict[str, Any]:
    arguments = hub_arguments(source, revision, kind="tower")
    if is_hub_name(source) and source in _KNOWN:
        return _KNOWN[source][name]
    if not is_hub_name(source) and not (Path(source) / name).is_file():
        raise CheckpointError(f"tower folder '{source}' has no {name}")
    try:
        path = cached_file(source, name, **arguments)
    except (OSError, ValueError) as error:
        reason = explain(error, source, revision)
        raise CheckpointError(f"no {name} of tower '{source}': {reason}") from error
    content: dict[str, Any] = json.loads(Path(str(path)).read_bytes())
    return content
