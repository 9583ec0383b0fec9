"""Vision transformers of timm, from the hub at a pinned revision or from a folder."""

import json
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from core.errors import CheckpointError, ConfigError, unknown_name
from core.io.hub import LOADING_ERRORS, explain_hub_error, hub_arguments
from models.towers.image_transform import ImageTransform, ResizeMode
from models.towers.vision_tower import VisionTower, VisionTowerConfig, register_tower

_OWNER = "timm"
_CONFIG_FILE = "config.json"


@register_tower("timm")
class TimmTower(VisionTower):
    """Vision transformer of timm, e.g. vit_base_patch16_clip_224.openai."""

    @classmethod
    def load(cls, config: VisionTowerConfig) -> Self:
        """Load the model without its classifier."""
        trunk = _load_model(config.source, config.hub_revision)
        return cls(trunk, config, _read_transform(trunk))

    @classmethod
    def empty(cls, config: VisionTowerConfig) -> Self:
        """Build the model without weights; the hub is not contacted."""
        import timm

        source = config.source
        arguments: dict[str, Any] = {"pretrained": False, "num_classes": 0}
        if Path(source).is_dir():
            settings = json.loads((Path(source) / _CONFIG_FILE).read_bytes())
            arguments |= settings.get("model_args") or {}
        with torch.device("meta"):
            trunk: nn.Module = timm.create_model(_architecture(source), **arguments)
        return cls(trunk, config, _read_transform(trunk))

    def _feature_shape(self) -> tuple[int, int]:
        trunk: Any = self.visual
        if not hasattr(trunk, "patch_embed") or not hasattr(trunk, "forward_intermediates"):
            kind = type(trunk).__name__
            raise ConfigError(f"timm's {kind} is not a vision transformer: it has no patch tokens")
        return trunk.patch_embed.num_patches, trunk.embed_dim

    def _extract(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        trunk: Any = self.visual
        (features_NPE,) = trunk.forward_intermediates(
            pixels_NCHW,
            indices=[len(trunk.blocks) - 2],
            norm=False,
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        penultimate_NPE: torch.Tensor = features_NPE
        return penultimate_NPE


def _load_model(source: str, revision: str) -> nn.Module:
    import timm  # needs torchvision, which runs on cached features do not

    identifier, repository = f"local-dir:{source}", source
    _architecture(source)  # rejects unknown names before anything is downloaded
    if not Path(source).is_dir():
        repository = source if "/" in source else f"{_OWNER}/{source}"
        hub_arguments(repository, revision, kind="tower")
        identifier = f"hf-hub:{repository}@{revision}"
    try:
        model: nn.Module = timm.create_model(identifier, pretrained=True, num_classes=0)
    except LOADING_ERRORS as error:
        reason = explain_hub_error(error, repository, revision)
        raise CheckpointError(f"tower '{source}' can't be loaded: {reason}") from error
    return model


def _architecture(source: str) -> str:
    """Return timm's name of the architecture, from a folder's configuration or the model name.

    Raises:
        ConfigError: If timm has no such architecture.
        CheckpointError: If the folder has no configuration.
    """
    import timm

    if Path(source).is_dir():
        file = Path(source) / _CONFIG_FILE
        if not file.is_file():
            raise CheckpointError(f"tower folder '{source}' has no {_CONFIG_FILE}")
        name = str(json.loads(file.read_bytes()).get("architecture"))
    else:
        name = source.rpartition("/")[2].partition(".")[0]
    if not timm.is_model(name):
        raise ConfigError(unknown_name("timm model", name, timm.list_models()))
    return name


def _read_transform(trunk: Any) -> ImageTransform:
    """Return timm's preprocessing without the margin: `crop_pct` would cut off parts of the image.

    Raises:
        ConfigError: If images are not square, RGB, bicubic and of the model's own size.
    """
    import timm.data

    settings = timm.data.resolve_model_data_config(trunk)
    channels, height, width = settings["input_size"]
    if tuple(trunk.patch_embed.img_size) != (height, width):
        raise ConfigError(
            f"timm tower was built for {trunk.patch_embed.img_size} pixels, but its images have "
            f"{(height, width)}: positions would be stretched. Set fixed_input_size in its config"
        )
    if (channels, height) != (3, width) or settings["interpolation"] != "bicubic":
        raise ConfigError(
            f"timm tower expects images {settings['input_size']}, {settings['interpolation']}; "
            "supported: 3 channels, square, bicubic"
        )
    return ImageTransform(
        size=height,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        resize_mode=ResizeMode.SHORTEST,
    )
