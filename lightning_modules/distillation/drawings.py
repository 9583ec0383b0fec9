"""Drawings of a distillation, decoded to one array."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from core.errors import DataError
from core.io.images import decode_image

DRAWING_PIXELS = 96
"""Side of a stored drawing."""


def stack_drawings(images: Iterable[bytes]) -> np.ndarray:
    """Decode images and resize them (bicubic) to uint8 RGB, shape (N, 3, 96, 96).

    Raises:
        DataError: If an image is damaged, or there are none.
    """
    size = (DRAWING_PIXELS, DRAWING_PIXELS)
    arrays = []
    for image in images:
        decoded = decode_image(image)
        if decoded.size != size:
            decoded = decoded.resize(size, Image.Resampling.BICUBIC)
        arrays.append(np.asarray(decoded, dtype=np.uint8).transpose(2, 0, 1))
    if not arrays:
        raise DataError("a distillation needs drawings, got none; check the sources")
    return np.stack(arrays)
