"""Encoded image -> normalised tensor, eagerly and deterministically, with guards against bombs.

The arithmetic is that of open_clip's evaluation transform (Pillow bicubic, centre crop, mean and
standard deviation), without its torchvision objects: small enough to travel to loader workers.
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
"""Part of every tower's fingerprint; raise it when the arithmetic changes."""

MAX_PIXELS = 64_000_000
"""Largest image that is decoded; a few kilobytes of file can ask for gigabytes of memory."""

MAX_ASPECT_RATIO = 64
"""Longest side over shortest; beyond it the resize itself would be the bomb."""

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
"""What Pillow raises on broken files, by format and by damage."""

_IN_MEMORY = re.compile(r"<_io\.BytesIO[^>]*>")


class ResizeMode(StrEnum):
    """How an image that is not square becomes square."""

    SHORTEST = "shortest"
    """Scale the shortest side, then crop the centre (CLIP)."""
    SQUASH = "squash"
    """Scale both sides alone."""


class CropRule(StrEnum):
    """Where the centre is when the margin is odd: one pixel."""

    ROUND = "round"
    """OpenAI's CLIP and open_clip."""
    FLOOR = "floor"
    """transformers' CLIP, and so LLaVA's."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageTransform:
    """Callable: encoded bytes -> float32 tensor of shape (C, H, W)."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: ResizeMode = ResizeMode.SHORTEST
    crop: CropRule = dataclasses.field(default=CropRule.ROUND, repr=False)

    def __call__(self, image_bytes: bytes) -> torch.Tensor:
        """Decode, resize, normalise.

        Raises:
            DataError: the bytes are no image, are damaged, or hide an absurd one.
        """
        return self.normalise(self.resize(decode_image(image_bytes)))

    def resize(self, image: Image.Image) -> Image.Image:
        """Bicubic resize to the tower's square."""
        if self.resize_mode is ResizeMode.SQUASH:
            return image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        width, height = image.size
        scale = self.size / min(width, height)
        target = (
            (self.size, int(height * scale))
            if width <= height
            else (
                int(width * scale),
                self.size,
            )
        )
        if target != image.size:
            image = image.resize(target, Image.Resampling.BICUBIC)
        left, top = (self._half(side - self.size) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def _half(self, margin: int) -> int:
        return margin // 2 if self.crop is CropRule.FLOOR else round(margin / 2)

    def normalise(self, image: Image.Image) -> torch.Tensor:
        """RGB image of the right size -> tensor."""
        array_HWC = np.asarray(image, dtype=np.float32) / np.float32(255)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        array_HWC = (array_HWC - mean) / std
        return torch.from_numpy(np.ascontiguousarray(array_HWC.transpose(2, 0, 1)))


def decode_image(image_bytes: bytes) -> Image.Image:
    """Decode to RGB; transparent images are laid on white.

    Raises:
        DataError: not an image, damaged, or too large to decode safely.
    """
    try:
        with warnings.catch_warnings():
            # Sizes are checked below, with our limit; Pillow's own warning would come first.
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
        # Pillow names the object in memory, another one every time.
        reason = f"{type(error).__name__}: {_IN_MEMORY.sub('the bytes', str(error))}"
        raise DataError(
            f"image of {len(image_bytes)} bytes can't be decoded: {reason}",
            UNDECODABLE,
        ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        message = f"image of {width}x{height} pixels; at most {MAX_PIXELS} are decoded"
        raise DataError(message, "image too large")
    if max(width, height) > MAX_ASPECT_RATIO * max(1, min(width, height)):
        limit = f"{MAX_ASPECT_RATIO}:1"
        message = f"image of {width}x{height} pixels is longer than {limit}; crop it"
        raise DataError(message, "image too long")
