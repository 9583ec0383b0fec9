"""The frozen vision tower: images -> grid of features; from open_clip, transformers or timm.

Two kinds of features. `penultimate` is LLaVA's (and the paper's): patch tokens of the block before
the last, without class token and final norm. `pooled_grid` is for convolutional towers: the pooled
and projected features of the whole image and of the cells of each grid.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from core.errors import CheckpointError, ConfigError, unknown_name
from models.towers import hugging_face as hf_tower
from models.towers import timm as timm_tower
from models.towers.image_transform import TRANSFORM_VERSION, CropRule, ImageTransform, ResizeMode

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "model.safetensors"


class TowerLibrary(StrEnum):
    """Who wrote the weights, and so how they are named."""

    OPEN_CLIP = "open_clip"
    """open_clip's own models and the timm models it wraps."""
    TRANSFORMERS = "transformers"
    """CLIPVisionModel, e.g. openai/clip-vit-large-patch14-336."""
    TIMM = "timm"
    """Any vision transformer of timm, e.g. vit_base_patch16_clip_224.openai."""


class TowerFeature(StrEnum):
    """Which features the language model sees."""

    PENULTIMATE = "penultimate"
    """Patch tokens of the second-to-last transformer block."""
    POOLED_GRID = "pooled_grid"
    """Projected average of every cell of every grid."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionTowerConfig:
    """Which tower, and what is taken from it."""

    library: TowerLibrary = TowerLibrary.OPEN_CLIP
    """Whose format the weights have."""
    path: str = ""
    """Folder with configuration and weights; of open_clip, open_clip_config.json and
    model.safetensors."""
    name: str = ""
    """When there is no folder: open_clip's model name (ViT-L-14-336-quickgelu), or the name on the
    hub (openai/clip-vit-large-patch14-336)."""
    pretrained: str = ""
    """open_clip only: the weights tag of that name, e.g. openai."""
    hub_revision: str = ""
    """transformers and timm: the commit on the hub, or (knowingly moving) main."""
    feature: TowerFeature = TowerFeature.PENULTIMATE
    """Kind of features."""
    grids: tuple[int, ...] = (1, 2)
    """Grid sizes of pooled_grid: (1, 2) gives 1 + 4 tokens."""

    def __post_init__(self) -> None:
        """Check the grids; where the weights are is checked when they are loaded."""
        is_open_clip = self.library is TowerLibrary.OPEN_CLIP
        if (self.pretrained and not is_open_clip) or (self.hub_revision and is_open_clip):
            raise ConfigError(
                f"tower.library={self.library.value} with pretrained='{self.pretrained}', "
                f"hub_revision='{self.hub_revision}': a tag is open_clip's, a revision the others'"
            )
        if not is_open_clip and self.feature is TowerFeature.POOLED_GRID:
            raise ConfigError(
                f"tower.feature=pooled_grid needs tower.library=open_clip, got {self.library.value}"
            )
        if not self.grids or min(self.grids) < 1:
            raise ConfigError(f"tower.grids must be positive sizes, got {self.grids}")


class VisionTower(nn.Module):
    """Frozen; always in evaluation mode; computes without gradients."""

    def __init__(
        self, visual: nn.Module, config: VisionTowerConfig, transform: ImageTransform
    ) -> None:
        super().__init__()
        self.config = config
        self.visual = visual.float().eval().requires_grad_(requires_grad=False)
        self.transform = transform
        self._fingerprint = ""
        if config.feature is TowerFeature.PENULTIMATE:
            self.num_image_tokens, self.width = _shape_of(visual, config)
        else:
            self.num_image_tokens = sum(size * size for size in config.grids)
            self.width = _head_width(visual)

    @torch.no_grad()
    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Features of shape (N, P, E)."""
        pixels_NCHW = pixels_NCHW.to(next(self.visual.parameters()).dtype)
        if self.config.feature is TowerFeature.PENULTIMATE:
            return self._penultimate(pixels_NCHW)
        return self._pooled_grid(pixels_NCHW)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation mode: batch norm and dropout of a frozen tower must not move."""
        del mode
        return super().train(mode=False)

    def fingerprint(self) -> str:
        """Address of the features: weights, what is taken from them, and the transform."""
        if not self._fingerprint:
            digest = hashlib.sha256()
            grids = self.config.grids if self.config.feature is TowerFeature.POOLED_GRID else ()
            head = (TRANSFORM_VERSION, self.config.feature.value, grids, self.transform)
            digest.update(repr(head).encode())
            if self.transform.crop is not CropRule.ROUND:  # not in the repr: caches are older
                digest.update(self.transform.crop.value.encode())
            for name, tensor in sorted(self.visual.state_dict().items()):
                digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _penultimate(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        if self.config.library is TowerLibrary.TRANSFORMERS:
            return hf_tower.penultimate_states(self.visual, pixels_NCHW)
        if self.config.library is TowerLibrary.TIMM:
            return timm_tower.penultimate_states(self.visual, pixels_NCHW)
        outputs = self.visual.forward_intermediates(  # type: ignore[operator]
            pixels_NCHW,
            indices=[-2],
            stop_early=True,
            normalize_intermediates=False,  # normalised features differ from LLaVA's by 0.5
            intermediates_only=True,
            output_fmt="NLC",
        )
        features_NPE: torch.Tensor = outputs["image_intermediates"][0]
        return features_NPE

    def _pooled_grid(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        maps_NCHW = self.visual.trunk.forward_features(pixels_NCHW)  # type: ignore[union-attr, operator]
        features_NPE: torch.Tensor = self.visual.head(  # type: ignore[operator]
            pool_grids(maps_NCHW, self.config.grids)
        )
        return features_NPE


def pool_grids(maps_NCHW: torch.Tensor, grids: Sequence[int]) -> torch.Tensor:
    """Average-pool feature maps to every grid: (N, sum of g*g, C), row-major cells."""
    cells = [
        functional.adaptive_avg_pool2d(maps_NCHW, size).flatten(2).transpose(1, 2) for size in grids
    ]
    return torch.cat(cells, dim=1)


def load_vision_tower(config: VisionTowerConfig) -> VisionTower:
    """Load a tower from a local folder or by its name.

    Raises:
        ConfigError: neither or both of folder and name, an activation that isn't the weights',
            a hub name without revision, or features the model can't give.
        CheckpointError: the weights are missing, can't be had or do not fit.
    """
    if config.library is TowerLibrary.TRANSFORMERS:
        source, revision = _source(config), config.hub_revision
        visual = hf_tower.load_clip_vision(source, revision)
        return VisionTower(visual, config, hf_tower.read_transform(source, revision))
    if config.library is TowerLibrary.TIMM:
        trunk = timm_tower.load_timm(_source(config), config.hub_revision)
        return VisionTower(trunk, config, timm_tower.transform_of(trunk))
    import open_clip  # needs torchvision, which runs on cached features don't

    identifier, pretrained = _identify(config)
    try:
        model = open_clip.create_model(identifier, pretrained=pretrained, weights_only=True)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"tower '{identifier}' can't be loaded: {error}") from error
    return VisionTower(model.visual, config, _transform_of(model.visual))


def count_image_tokens(config: VisionTowerConfig) -> int:
    """Visual tokens of an image, from the shape of the tower alone: no weights are read.

    Raises:
        ConfigError, CheckpointError: as `load_vision_tower`.
    """
    if config.feature is TowerFeature.POOLED_GRID:
        return sum(size * size for size in config.grids)
    if config.library is TowerLibrary.TRANSFORMERS:
        return hf_tower.read_shape(_source(config), config.hub_revision)[0]
    return empty_vision_tower(config).num_image_tokens


def empty_vision_tower(config: VisionTowerConfig) -> VisionTower:
    """The tower without its weights: parameters on the meta device.

    Raises:
        ConfigError, CheckpointError: as `load_vision_tower`.
    """
    if config.library is TowerLibrary.TRANSFORMERS:
        source, revision = _source(config), config.hub_revision
        visual = hf_tower.empty_clip_vision(source, revision)
        return VisionTower(visual, config, hf_tower.read_transform(source, revision))
    if config.library is TowerLibrary.TIMM:
        trunk = timm_tower.empty_timm(_source(config))
        return VisionTower(trunk, config, timm_tower.transform_of(trunk))
    import open_clip  # as above

    identifier, _ = _identify(config)
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of random weights, and there are none
    try:
        with torch.device("meta"):
            model = open_clip.create_model(
                identifier, load_weights=False, pretrained_text=False, device="meta"
            )
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"tower '{identifier}' can't be built: {error}") from error
    finally:
        logging.disable(threshold)
    return VisionTower(model.visual, config, _transform_of(model.visual))


def _source(config: VisionTowerConfig) -> str:
    if bool(config.path) == bool(config.name):
        raise ConfigError(
            f"tower needs either path or name, got path='{config.path}' name='{config.name}'"
        )
    return config.path or config.name


def _identify(config: VisionTowerConfig) -> tuple[str, str | None]:
    _source(config)
    if config.name:
        if not config.pretrained:
            raise ConfigError(f"tower.name '{config.name}' needs tower.pretrained, e.g. openai")
        _check_activation(config.name, config.pretrained)
        return config.name, config.pretrained
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (Path(config.path) / file).is_file():
            raise CheckpointError(f"tower folder '{config.path}' has no {file}")
    return f"local-dir:{config.path}", None


def _check_activation(name: str, tag: str) -> None:
    """Refuse a model whose GELU isn't the one its weights were trained with: open_clip only warns.

    Raises:
        ConfigError: with the name to write instead.
    """
    import open_clip

    model = open_clip.get_model_config(name)
    if model is None:
        raise ConfigError(unknown_name("open_clip model", name, open_clip.list_models()))
    weights = open_clip.get_pretrained_cfg(name, tag)  # empty for a file, and for unknown tags
    if weights.get("quick_gelu", False) and not model.get("quick_gelu", False):
        raise ConfigError(
            f"tower '{name}' computes GELU, its weights '{tag}' were trained with QuickGELU: "
            f"features would be wrong without a word. Use tower.name={name}-quickgelu"
        )


def _transform_of(visual: Any) -> ImageTransform:
    """What open_clip says about the images this model was trained on."""
    settings = visual.preprocess_cfg
    size = settings["size"]
    height, width = (size, size) if isinstance(size, int) else size
    modes = [mode.value for mode in ResizeMode]
    known = (settings["interpolation"], settings["mode"]) == ("bicubic", "RGB")
    if height != width or not known or settings["resize_mode"] not in modes:
        raise ConfigError(
            f"tower wants images {settings}; supported: square, RGB, bicubic, {modes}"
        )
    return ImageTransform(
        size=int(height),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        resize_mode=ResizeMode(settings["resize_mode"]),
    )


def _shape_of(visual: Any, config: VisionTowerConfig) -> tuple[int, int]:
    if config.library is TowerLibrary.TRANSFORMERS:
        return hf_tower.read_shape(_source(config), config.hub_revision)
    if config.library is TowerLibrary.TIMM:
        return timm_tower.patch_shape(visual)
    return _patch_shape(visual)


def _patch_shape(visual: Any) -> tuple[int, int]:
    """Number and width of patch tokens."""
    if hasattr(visual, "transformer") and hasattr(visual, "grid_size"):
        rows, columns = visual.grid_size
        return rows * columns, visual.transformer.width
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and hasattr(trunk, "patch_embed"):
        return trunk.patch_embed.num_patches, trunk.embed_dim
    kind = type(trunk if trunk is not None else visual).__name__
    raise ConfigError(f"{kind} has no transformer blocks; use tower.feature=pooled_grid")


def _head_width(visual: Any) -> int:
    """Output width of the projection head of an average-pooling timm tower."""
    layers = [m for m in getattr(visual, "head", nn.Identity()).modules() if hasattr(m, "weight")]
    if not hasattr(visual, "trunk") or not layers or not isinstance(layers[-1], nn.Linear):
        kind = type(visual).__name__
        raise ConfigError(
            f"pooled_grid needs a timm tower (timm_pool avg, timm_proj mlp or linear), got {kind}"
        )
    return layers[-1].out_features
