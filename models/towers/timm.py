"""Vision transformers of timm, by name: from the hub at a revision, or from a folder."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import CheckpointError, ConfigError, unknown_name
from core.io.hub import explain, hub_arguments
from models.towers.image_transform import ImageTransform, ResizeMode

_OWNER = "timm"
_CONFIG_FILE = "config.json"


def load_timm(source: str, revision: str) -> nn.Module:
    """The model without its classifier.

    Raises:
        ConfigError: an unknown architecture, or a hub name without revision.
        CheckpointError: weights that are missing or do not fit, or can't be had.
    """
    import timm  # needs torchvision, which runs on cached features don't

    identifier, repository = f"local-dir:{source}", source
    architecture(source)  # refuses unknown names before anything is downloaded
    if not Path(source).is_dir():
        repository = source if "/" in source else f"{_OWNER}/{source}"
        hub_arguments(repository, revision, kind="tower")
        identifier = f"hf-hub:{repository}@{revision}"
    try:
        model: nn.Module = timm.create_model(identifier, pretrained=True, num_classes=0)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = explain(error, repository, revision)
        raise CheckpointError(f"tower '{source}' can't be loaded: {reason}") from error
    return model


def architecture(source: str) -> str:
    """Timm's name of the model, from a folder's configuration or the name itself.

    Raises:
        ConfigError: timm has no such model.
        CheckpointError: the folder has no configuration.
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


def empty_timm(source: str) -> nn.Module:
    """The same model on the meta device, from its name alone."""
    import timm

    arguments: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    if Path(source).is_dir():
        settings = json.loads((Path(source) / _CONFIG_FILE).read_bytes())
        arguments |= settings.get("model_args") or {}
    with torch.device("meta"):
        model: nn.Module = timm.create_model(architecture(source), **arguments)
    return model


def patch_shape(trunk: Any) -> tuple[int, int]:
    """Number and width of patch tokens.

    Raises:
        ConfigError: no vision transformer.
    """
    if not hasattr(trunk, "patch_embed") or not hasattr(trunk, "forward_intermediates"):
        kind = type(trunk).__name__
        raise ConfigError(f"timm's {kind} is no vision transformer: it has no patch tokens")
    return trunk.patch_embed.num_patches, trunk.embed_dim


def penultimate_states(trunk: Any, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """Patch tokens (N, P, E) of the block before the last, without final norm."""
    (features_NPE,) = trunk.forward_intermediates(
        pixels_NCHW,
        indices=[len(trunk.blocks) - 2],
        norm=False,
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
    )
    states_NPE: torch.Tensor = features_NPE
    return states_NPE


def transform_of(trunk: Any) -> ImageTransform:
    """What timm says about the images, but for the margin: `crop_pct` cuts off what we must see.

    Raises:
        ConfigError: images that aren't square, RGB, bicubic and of the model's own size.
    """
    import timm.data

    settings = timm.data.resolve_model_data_config(trunk)
    channels, height, width = settings["input_size"]
    if tuple(trunk.patch_embed.img_size) != (height, width):
        raise ConfigError(
            f"timm tower was built for {trunk.patch_embed.img_size} pixels, its images have "
            f"{(height, width)}: positions would be stretched. Set fixed_input_size in its config"
        )
    if (channels, height) != (3, width) or settings["interpolation"] != "bicubic":
        raise ConfigError(
            f"timm tower wants images {settings['input_size']}, {settings['interpolation']}; "
            "supported: 3 channels, square, bicubic"
        )
    return ImageTransform(
        size=height,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        resize_mode=ResizeMode.SHORTEST,
    )
