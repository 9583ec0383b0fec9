"""Image transform: equal to open_clip's."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from models.towers.image_transform import ImageTransform, ResizeMode

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


def test_a_pickled_transform_is_small() -> None:
    transform = ImageTransform(size=64, mean=MEAN, std=STD)
    assert pickle.loads(pickle.dumps(transform)) == transform
