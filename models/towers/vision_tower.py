"""Frozen vision towers, which turn images into features, and their configuration.

Every module of `models.towers.libraries` supports one library that provides towers; supporting
another one takes another module there and no change elsewhere. There are two kinds of features:
`penultimate` is that of LLaVA and of the paper (patch tokens of the second-to-last block, without
class token and final norm); `pooled_grid` suits convolutional towers (pooled and projected features
of the whole image and of the cells of each grid).
"""

import abc
import dataclasses
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import nn
from torch.nn import functional

from core.errors import CheckpointError, ConfigError, unknown_name
from core.io.reading import reading
from core.precision import without_autocast
from models.towers import libraries
from models.towers.image_transform import (
    TRANSFORM_VERSION,
    CropRule,
    ImageTransform,
    PixelNormaliser,
)

_RESTORE = "restore the files of the tower"


class TowerFeature(StrEnum):
    """Kind of features that the language model receives."""

    PENULTIMATE = "penultimate"
    """Patch tokens of the second-to-last transformer block."""
    POOLED_GRID = "pooled_grid"
    """Projected average of every cell of every grid."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionTowerConfig:
    """Source of a vision tower and the features to take from it."""

    library: str = "open_clip"
    """Library whose format the weights have: open_clip, transformers or timm."""
    path: str = ""
    """Folder with the configuration and the weights; for open_clip these are
    open_clip_config.json and model.safetensors."""
    name: str = ""
    """Model name if there is no folder: open_clip's own (ViT-L-14-336-quickgelu), or the name on
    the hub (openai/clip-vit-large-patch14-336)."""
    pretrained: str = ""
    """open_clip only: tag of the pretrained weights, e.g. openai."""
    hub_revision: str = ""
    """transformers and timm only: commit on the hub, or main to follow a moving branch."""
    feature: TowerFeature = TowerFeature.PENULTIMATE
    """Kind of features."""
    grids: tuple[int, ...] = (1, 2)
    """Grid sizes of pooled_grid: (1, 2) gives 1 + 4 tokens."""

    def __post_init__(self) -> None:
        """Check combinations; the weights are checked when they are loaded."""
        get_tower_class(self.library).check_config(self)
        if not self.grids or min(self.grids) < 1:
            raise ConfigError(f"tower.grids must be positive sizes, got {self.grids}")

    @property
    def source(self) -> str:
        """The folder or the name.

        Raises:
            ConfigError: If neither or both are set.
        """
        if bool(self.path) == bool(self.name):
            raise ConfigError(
                f"tower needs either path or name, got path='{self.path}' name='{self.name}'"
            )
        return self.path or self.name


class VisionTower(nn.Module, abc.ABC):
    """Frozen tower, always in evaluation mode and without gradients; one subclass per library."""

    has_pooled_grid: ClassVar[bool] = False
    """Support for `TowerFeature.POOLED_GRID`."""
    has_tags: ClassVar[bool] = False
    """Selection of weights by `pretrained`; other libraries use `hub_revision`."""

    def __init__(
        self, visual: nn.Module, config: VisionTowerConfig, transform: ImageTransform
    ) -> None:
        super().__init__()
        self.config = config
        self.visual = visual.float().eval().requires_grad_(requires_grad=False)
        self.transform = transform
        self.normalise = PixelNormaliser(transform)
        self._fingerprint = ""
        self.num_image_tokens, self.width = self._feature_shape()

    @classmethod
    def check_config(cls, config: VisionTowerConfig) -> None:
        """Check options that not every library has.

        Raises:
            ConfigError: If the library does not have an option that is set.
        """
        if (config.pretrained and not cls.has_tags) or (config.hub_revision and cls.has_tags):
            raise ConfigError(
                f"tower.library={config.library} with pretrained='{config.pretrained}', "
                f"hub_revision='{config.hub_revision}': only open_clip has tags, and only the "
                "other libraries have revisions; remove that option"
            )
        if config.feature is TowerFeature.POOLED_GRID and not cls.has_pooled_grid:
            raise ConfigError(
                f"tower.feature=pooled_grid needs tower.library=open_clip, got {config.library}"
            )

    @classmethod
    @abc.abstractmethod
    def load(cls, config: VisionTowerConfig) -> Self:
        """Load the tower with its weights; see `load_vision_tower`."""

    @classmethod
    @abc.abstractmethod
    def empty(cls, config: VisionTowerConfig) -> Self:
        """Build the tower on the meta device; see `empty_vision_tower`."""

    @classmethod
    def count_image_tokens(cls, config: VisionTowerConfig) -> int:
        """Count the tokens of an image without reading weights."""
        return cls.empty(config).num_image_tokens

    @abc.abstractmethod
    def _feature_shape(self) -> tuple[int, int]:
        """Return the number of tokens of an image and their width."""

    @abc.abstractmethod
    def _extract(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the features, of shape (N, P, E)."""

    @torch.no_grad()
    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the features, of shape (N, P, E), in the precision of the weights.

        Autocast is off: on a GPU it would compute norms and the residual stream in float32 during
        training only, and an evaluation would see other features.

        Args:
            pixels_NCHW: Images from `transform` (uint8), or normalised ones (floating point).
        """
        with without_autocast(pixels_NCHW.device):
            if not pixels_NCHW.is_floating_point():
                pixels_NCHW = self.normalise(pixels_NCHW)
            return self._extract(pixels_NCHW.to(next(self.visual.parameters()).dtype))

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation mode: batch norm and dropout of a frozen tower must not change."""
        del mode
        return super().train(mode=False)

    def fingerprint(self) -> str:
        """Return the content address of the features: weights, kind of features and transform."""
        if not self._fingerprint:
            digest = hashlib.sha256()
            grids = self.config.grids if self.config.feature is TowerFeature.POOLED_GRID else ()
            head = (TRANSFORM_VERSION, self.config.feature.value, grids, self.transform)
            digest.update(repr(head).encode())
            # The crop rule is not part of the repr, so that older caches of the default stay valid.
            if self.transform.crop is not CropRule.ROUND:
                digest.update(self.transform.crop.value.encode())
            for name, tensor in sorted(self.visual.state_dict().items()):
                digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def clip_vision_config(self) -> dict[str, Any]:
        """Return the arguments of the `transformers.CLIPVisionConfig` with this tower's shape.

        Raises:
            ConfigError: If the tower is not a CLIP ViT or does not give its penultimate features.
        """
        raise self._no_clip_vit()

    def clip_vision_weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors under the names of `transformers.CLIPVisionModel`.

        Raises:
            ConfigError: If a tensor has no counterpart there, or one is missing.
        """
        raise self._no_clip_vit()

    def _no_clip_vit(self) -> ConfigError:
        kind = type(getattr(self.visual, "trunk", self.visual)).__name__
        return ConfigError(
            f"a {kind} tower with feature '{self.config.feature}' can't be exported: stock LLaVA "
            "has a CLIP ViT and uses its penultimate patch tokens. Export a cell with a CLIP ViT "
            "and tower.feature=penultimate, or chat with this one through experiments.chat"
        )


def pool_grids(maps_NCHW: torch.Tensor, grids: Sequence[int]) -> torch.Tensor:
    """Average-pool feature maps to every grid: (N, sum of g*g, C), cells in row-major order."""
    cells = [
        functional.adaptive_avg_pool2d(maps_NCHW, size).flatten(2).transpose(1, 2) for size in grids
    ]
    return torch.cat(cells, dim=1)


def load_vision_tower(config: VisionTowerConfig) -> VisionTower:
    """Load a tower from a local folder or by its name.

    Raises:
        ConfigError: If neither or both of folder and name are set, the activation is not the one
            the weights were trained with, a hub name has no revision, or the model does not have
            the requested features.
        CheckpointError: If the weights are missing, inaccessible or do not fit.
    """
    with _loading(config):
        return get_tower_class(config.library).load(config)


def empty_vision_tower(config: VisionTowerConfig) -> VisionTower:
    """Build a tower without its weights: all parameters are on the meta device.

    Raises:
        ConfigError, CheckpointError: See `load_vision_tower`.
    """
    with _loading(config):
        return get_tower_class(config.library).empty(config)


def count_image_tokens(config: VisionTowerConfig) -> int:
    """Count the visual tokens of an image from the tower's configuration; no weights are read.

    Raises:
        ConfigError, CheckpointError: See `load_vision_tower`.
    """
    if config.feature is TowerFeature.POOLED_GRID:
        return sum(size * size for size in config.grids)
    with _loading(config):
        return get_tower_class(config.library).count_image_tokens(config)


def _loading(config: VisionTowerConfig) -> AbstractContextManager[None]:
    """Report what the libraries raise for damaged files as errors of the tower."""
    return reading(config.source, fix=_RESTORE, error_class=CheckpointError)


_TOWER_CLASSES: dict[str, type[VisionTower]] = {}
_TowerT = TypeVar("_TowerT", bound=type[VisionTower])


def register_tower(library: str) -> Callable[[_TowerT], _TowerT]:
    """Register the decorated class as the tower of a library."""

    def register(tower_class: _TowerT) -> _TowerT:
        _TOWER_CLASSES[library] = tower_class
        return tower_class

    return register


def get_tower_class(library: str) -> type[VisionTower]:
    """Return the tower class of a library, whose module is imported on first use.

    Raises:
        ConfigError: If there is no such library.
    """
    known = [module.name for module in pkgutil.iter_modules(libraries.__path__)]
    if library not in known:
        raise ConfigError(unknown_name("tower.library", library, known))
    importlib.import_module(f"{libraries.__name__}.{library}")
    return _TOWER_CLASSES[library]
