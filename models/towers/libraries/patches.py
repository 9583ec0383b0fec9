"""No vision encoder: the features of an image are the pixels of its patches.

The architecture `single_stream` selects this "library"; its name is image size / patch size, e.g.
336/28. The values of a patch are in the order rows, columns, channels, as in Fuyu.
"""

import re
from typing import Self

import torch
from torch import nn

from core.errors import ConfigError
from models.towers.image_transform import ImageTransform, ResizeMode
from models.towers.vision_tower import VisionTower, VisionTowerConfig, register_tower

_NAME = re.compile(r"([1-9][0-9]*)/([1-9][0-9]*)")
_HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation that map pixels to [-1, 1]."""


@register_tower("patches")
class PatchTower(VisionTower):
    """Normalised pixels of square patches, row by row; it has no weights."""

    @classmethod
    def check_config(cls, config: VisionTowerConfig) -> None:
        """Check the name."""
        super().check_config(config)
        _sizes(config)

    @classmethod
    def load(cls, config: VisionTowerConfig) -> Self:
        """Build the tower, which has no weights to load."""
        size, patch = _sizes(config)
        transform = ImageTransform(size=size, mean=_HALF, std=_HALF, resize_mode=ResizeMode.SQUASH)
        return cls(_PatchSize(patch), config, transform)

    @classmethod
    def empty(cls, config: VisionTowerConfig) -> Self:
        """Build the same tower."""
        return cls.load(config)

    @torch.no_grad()
    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the patches (N, P, E) of images from `transform`, or of normalised ones."""
        if not pixels_NCHW.is_floating_point():
            pixels_NCHW = self.normalise(pixels_NCHW)
        return self._extract(pixels_NCHW)

    def _feature_shape(self) -> tuple[int, int]:
        size, patch = _sizes(self.config)
        return (size // patch) ** 2, 3 * patch**2

    def _extract(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        _, patch = _sizes(self.config)
        cut_NCYXRS = pixels_NCHW.unfold(2, patch, patch).unfold(3, patch, patch)
        return cut_NCYXRS.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


class _PatchSize(nn.Module):
    """Holder of the size of a patch, which is thereby part of the fingerprint of a tower."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.register_buffer("patch_size", torch.tensor(patch), persistent=True)


def _sizes(config: VisionTowerConfig) -> tuple[int, int]:
    """Return the sizes of an image and of a patch in pixels.

    Raises:
        ConfigError: If the name is malformed, or the patches do not tile the image.
    """
    found = _NAME.fullmatch(config.name)
    size, patch = (int(found[1]), int(found[2])) if found else (0, 0)
    if not found or size % patch:
        raise ConfigError(
            f"tower.library=patches needs tower.name=SIZE/PATCH with a size that is a multiple of "
            f"the patch, e.g. 336/28; got '{config.name}'"
        )
    return size, patch
