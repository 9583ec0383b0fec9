"""Image transform: equal to open_clip's."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from models.towers.image_transform import ImageTransform, PixelNormaliser, ResizeMode

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
    transform = ImageTransform(size=64, mean=MEAN, std=STD, resize_mode=mode)
    pixels = transform(encode(array_HWC))
    ours = PixelNormaliser(transform)(pixels)
    theirs = image_transform(64, is_train=False, mean=MEAN, std=STD, resize_mode=mode.value)
    expected = theirs(Image.fromarray(array_HWC))
    assert (pixels.dtype, ours.dtype) == (torch.uint8, torch.float32)
    assert pixels.shape == ours.shape == (3, 64, 64)
    assert (ours - expected).abs().max() <= 1e-6


def test_every_grey_level_is_normalised_as_in_numpy() -> None:
    """The tower gets the bits that the loader workers computed when they did it."""
    normaliser = PixelNormaliser(ImageTransform(size=16, mean=MEAN, std=STD))
    levels_HWC = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
    expected_HWC = (levels_HWC.astype(np.float32) / np.float32(255) - mean) / std
    levels_NCHW = torch.from_numpy(levels_HWC).permute(2, 0, 1)[None]
    for layout in (torch.contiguous_format, torch.channels_last):
        found_NCHW = normaliser(levels_NCHW.contiguous(memory_format=layout))
        assert np.array_equal(found_NCHW[0].permute(1, 2, 0).numpy(), expected_HWC)
        assert found_NCHW.is_contiguous(memory_format=layout)
    assert not normaliser.state_dict(), "constants are not weights"


def test_a_pickled_transform_is_small() -> None:
    transform = ImageTransform(size=64, mean=MEAN, std=STD)
    assert pickle.loads(pickle.dumps(transform)) == transform
