"""Tests of the batches in which the features stage calls the tower."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from core.errors import DataError
from models.towers.vision_tower import VisionTower
from pipeline.stages.base import StageContext
from pipeline.stages.features import _BatchEncoder


class CountingTower:
    """A tower whose feature is the value of an image; it records the size of every batch."""

    num_image_tokens, width = 1, 1

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def transform(self, image: bytes) -> torch.Tensor:
        if not image:
            raise DataError("no image")
        return torch.full((3, 2, 2), float(image))

    def __call__(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(pixels_NCHW))
        if pixels_NCHW.device.type == "meta":  # values do not exist there
            return torch.zeros(len(pixels_NCHW), 1, 1)
        return pixels_NCHW[:, :1, 0, :1]


@pytest.mark.parametrize(("device", "largest"), [("cpu", 2), ("meta", 64)])
def test_an_accelerator_gets_the_whole_batch(device: str, largest: int) -> None:
    tower, num_threads = CountingTower(), torch.get_num_threads()
    images = [str(number).encode() for number in range(64)]
    images[5] = b""
    try:
        context = cast(StageContext, SimpleNamespace(flag=SimpleNamespace(is_set=False)))
        encoder = _BatchEncoder(cast(VisionTower, tower), torch.device(device), context)
        features_NPE: Any = encoder(images)
    finally:
        torch.set_num_threads(num_threads)
    assert max(tower.sizes) == min(largest, 63)
    assert sum(tower.sizes) == 63
    assert np.isnan(features_NPE[5, 0, 0])
    if device == "cpu":
        assert [features_NPE[i, 0, 0] for i in (0, 6, 63)] == [0, 6, 63]
