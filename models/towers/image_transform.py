"""Deterministic conversion of encoded images to normalised tensors, safe for untrusted images.

The arithmetic is that of open_clip's evaluation transform (Pillow bicubic, centre crop, mean and
standard deviation) without its torchvision objects, so that it is cheap to send to loader workers.
Workers return bytes, a quarter of the size of numbers; the tower normalises them on its device.
"""

import dataclasses
from enum import StrEnum

import numpy as np
import torch
from PIL import Image
from torch import nn

from core.io.images import decode_image

TRANSFORM_VERSION = 2
"""Part of every tower's fingerprint; increase it when the arithmetic changes. Version 2 turns
images upright and scales 16-bit grey values."""


class ResizeMode(StrEnum):
    """Conversion of an image to a square."""

    SHORTEST = "shortest"
    """Resize the shortest side, then crop the centre (CLIP)."""
    SQUASH = "squash"
    """Resize both sides independently."""


class CropRule(StrEnum):
    """Rounding of an odd margin in a centre crop, which shifts it by one pixel."""

    ROUND = "round"
    """Rule of OpenAI's CLIP and open_clip."""
    FLOOR = "floor"
    """Rule of transformers' CLIP, and therefore of LLaVA."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageTransform:
    """Conversion of encoded bytes to a uint8 tensor of shape (C, H, W)."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: ResizeMode = ResizeMode.SHORTEST
    crop: CropRule = dataclasses.field(default=CropRule.ROUND, repr=False)

    def __call__(self, image_bytes: bytes) -> torch.Tensor:
        """Decode and resize an image.

        Raises:
            DataError: If the bytes are not an image, are damaged, or contain an oversized image.
        """
        array_HWC = np.asarray(self.resize(decode_image(image_bytes)))
        return torch.from_numpy(np.ascontiguousarray(array_HWC.transpose(2, 0, 1)))

    def resize(self, image: Image.Image) -> Image.Image:
        """Resize an image to the tower's square with bicubic interpolation."""
        if self.resize_mode is ResizeMode.SQUASH:
            return image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        width, height = image.size
        scale = self.size / min(width, height)
        if width <= height:
            resized = self.size, int(height * scale)
        else:
            resized = int(width * scale), self.size
        if resized != image.size:
            image = image.resize(resized, Image.Resampling.BICUBIC)
        left, top = (self._half(side - self.size) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def _half(self, margin: int) -> int:
        return margin // 2 if self.crop is CropRule.FLOOR else round(margin / 2)


class PixelNormaliser(nn.Module):
    """Normalisation of uint8 images (..., C, H, W) to float32, on their device."""

    largest: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, transform: ImageTransform) -> None:
        super().__init__()
        # Constants are tensors: dividing by a number, CUDA multiplies by its rounded reciprocal.
        constants = {"largest": (255.0,) * 3, "mean": transform.mean, "std": transform.std}
        for name, values in constants.items():
            constant_C11 = torch.tensor(values, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, constant_C11, persistent=False)

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return (pixels / 255 - mean) / std."""
        scaled_NCHW = pixels_NCHW.float() / self.largest
        normalised_NCHW: torch.Tensor = (scaled_NCHW - self.mean) / self.std
        return normalised_NCHW
