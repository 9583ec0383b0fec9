"""Image transform: equal to open_clip's, with errors for broken and oversized images."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import DataError
from models.towers.image_transform import MAX_PIXELS, ImageTransform, ResizeMode, decode_image

MEAN, STD = (0.48, 0.45, 0.41), (0.27, 0.26, 0.28)


def encode(array_HWC: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array_HWC).save(buffer, kind)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(150, 203), (203, 150), (64, 64), (30, 31), (64, 91)])
@pytest.mark.parametrize("mode", list(ResizeMode))
def test_the_transform_equals_that_of_open_clip(shape: tuple[int, int], mode: ResizeMode) -> None:
    from open_clip.transform import image_transform

    array_HWC = noise(*shape)
    ours = ImageTransform(size=64, mean=MEAN, std=STD, resize_mode=mode)(encode(array_HWC))
    theirs = image_transform(64, is_train=False, mean=MEAN, std=STD, resize_mode=mode.value)
    expected = theirs(Image.fromarray(array_HWC))
    assert ours.dtype is torch.float32
    assert ours.shape == (3, 64, 64)
    assert (ours - expected).abs().max() <= 1e-6


def test_transparent_pixels_become_white_and_grey_becomes_rgb() -> None:
    rgba = noise(8, 8, 4)
    rgba[..., 3] = 0
    assert np.asarray(decode_image(encode(rgba))).min() == 255
    assert decode_image(encode(noise(8, 8)[..., 0])).mode == "RGB"


def test_every_truncation_is_a_data_error() -> None:
    for kind in ("png", "webp", "jpeg"):
        content = encode(noise(40, 40), kind)
        for end in (0, 1, 12, len(content) // 2):
            with pytest.raises(DataError, match="bytes"):
                decode_image(content[:end])


def test_garbage_is_a_data_error() -> None:
    with pytest.raises(DataError, match="UnidentifiedImageError"):
        decode_image(b"<html>404</html>" * 10)


def png_header(width: int, height: int) -> bytes:
    """Build a PNG of a few bytes that declares a huge size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9000, 9000), (60000, 60000), (65000, 1)])
def test_image_bombs_are_rejected_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"pixels|Bomb"):
        decode_image(png_header(*size))


def test_the_pixel_limit_allows_photographs() -> None:
    assert MAX_PIXELS >= 8000 * 6000


def test_a_pickled_transform_is_small() -> None:
    transform = ImageTransform(size=64, mean=MEAN, std=STD)
    assert pickle.loads(pickle.dumps(transform)) == transform
