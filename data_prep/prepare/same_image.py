"""Comparison of images that may be stored in other encodings and sizes."""

import dataclasses
import hashlib
from typing import Self

import numpy as np
from PIL import Image

from core.io.images import decode_image

_SIDE = 16
_MAX_MEAN_DIFFERENCE = 8.0
"""Largest mean difference, of 255, between thumbnails of one image in two encodings."""
_MAX_DIFFERENCE = 48.0
"""Largest difference of a pixel of the thumbnails; drawings on one background differ locally."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageDigest:
    """Checksum and thumbnail of an image, by which it is recognised."""

    sha256: bytes
    thumbnail: bytes
    """16 x 16 RGB pixels."""

    @classmethod
    def of(cls, image: bytes) -> Self:
        """Return the digest of an encoded image.

        Raises:
            DataError: If it can't be decoded.
        """
        small = decode_image(image).resize((_SIDE, _SIDE), Image.Resampling.BOX)
        return cls(sha256=hashlib.sha256(image).digest(), thumbnail=small.tobytes())

    def is_same_image(self, other: "ImageDigest") -> bool:
        """Return whether both show the same image."""
        if self.sha256 == other.sha256:
            return True
        one, two = (
            np.frombuffer(digest.thumbnail, dtype=np.uint8).astype(np.float64)
            for digest in (self, other)
        )
        difference = np.abs(one - two)
        return bool(
            difference.mean() <= _MAX_MEAN_DIFFERENCE and difference.max() <= _MAX_DIFFERENCE
        )
