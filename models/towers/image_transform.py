"""Deterministic conversion of encoded images to normalised tensors, safe for untrusted images.

The arithmetic is that of open_clip's evaluation transform (Pillow bicubic, centre crop, mean and
standard deviation) without its torchvision objects, so that it is cheap to send to loader workers.
"""

import dataclasses
import io
import re
import struct
import warnings
import zlib
from enum import StrEnum

import numpy as np
import torch
from PIL import Image

from core.errors import UNDECODABLE, DataError

TRANSFORM_VERSION = 1
"""Part of every tower's fingerprint; increase it when the arithmetic changes."""

MAX_PIXELS = 64_000_000
"""Largest image to decode; a file of a few kilobytes may expand to gigabytes of memory."""

MAX_ASPECT_RATIO = 64
"""Maximum ratio of the sides; beyond it the resized image would be huge."""

_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""Errors that Pillow raises for broken files, depending on the format and the damage."""

_IN_MEMORY = re.compile(r"<_io\.BytesIO[^>]*>")


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
    """Conversion of encoded bytes to a float32 tensor of shape (C, H, W)."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: ResizeMode = ResizeMode.SHORTEST
    crop: CropRule = dataclasses.field(default=CropRule.ROUND, repr=False)

    def __call__(self, image_bytes: bytes) -> torch.Tensor:
        """Decode, resize and normalise an image.

        Raises:
            DataError: If the bytes are not an image, are damaged, or contain an oversized image.
        """
        return self.normalise(self.resize(decode_image(image_bytes)))

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

    def normalise(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image of the right size to a normalised tensor."""
        array_HWC = np.asarray(image, dtype=np.float32) / np.float32(255)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        array_HWC = (array_HWC - mean) / std
        return torch.from_numpy(np.ascontiguousarray(array_HWC.transpose(2, 0, 1)))


def decode_image(image_bytes: bytes) -> Image.Image:
    """Decode an image to RGB; transparent images get a white background.

    Raises:
        DataError: If the bytes are not an image, are damaged, or the image is too large.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit is checked below; Pillow would warn earlier.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(image_bytes))
        _check_size(*image.size)
        image.load()
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    except _DECODE_ERRORS as error:
        # Pillow's message contains an address in memory, which differs every time.
        reason = f"{type(error).__name__}: {_IN_MEMORY.sub('the bytes', str(error))}"
        raise DataError(
            f"image of {len(image_bytes)} bytes can't be decoded: {reason}",
            UNDECODABLE,
        ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        message = f"image of {width}x{height} pixels exceeds {MAX_PIXELS} pixels; downscale it"
        raise DataError(message, "image too large")
    if max(width, height) > MAX_ASPECT_RATIO * max(1, min(width, height)):
        limit = f"{MAX_ASPECT_RATIO}:1"
        message = f"image of {width}x{height} pixels exceeds an aspect ratio of {limit}; crop it"
        raise DataError(message, "image too long")
