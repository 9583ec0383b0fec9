"""Decoding of images ahead of the model."""

import threading

import numpy as np
import pytest
import torch

from core.errors import DataError
from evaluation.answerers.image_loader import ImageLoader

WAIT_S = 10.0


def encode(image: bytes) -> np.ndarray:
    return np.frombuffer(image, dtype=np.uint8)


@pytest.mark.parametrize("num_threads", [0, 3])
def test_images_keep_their_order_and_content(num_threads: int) -> None:
    loader = ImageLoader(encode, num_threads=num_threads)
    loader.prefetch([b"b", b"a"])
    loaded = loader.load([b"c", b"a", b"c", b"b"])
    assert list(loaded) == [b"c", b"a", b"b"]
    assert all(torch.equal(loaded[key], torch.as_tensor(encode(key).copy())) for key in loaded)


def test_prefetched_images_are_decoded_once_and_before_they_are_needed() -> None:
    decoded = threading.Event()
    calls: list[bytes] = []

    def record(image: bytes) -> np.ndarray:
        calls.append(image)
        decoded.set()
        return encode(image)

    loader = ImageLoader(record, num_threads=1)
    loader.prefetch([b"x"])
    assert decoded.wait(WAIT_S)
    loader.load([b"x"])
    assert calls == [b"x"]
    loader.load([b"x"])
    assert calls == [b"x", b"x"], "an image is not kept after use"


def test_a_broken_image_raises_when_it_is_needed() -> None:
    def fail(image: bytes) -> np.ndarray:
        raise DataError(f"broken: {image!r}")

    loader = ImageLoader(fail, num_threads=1)
    loader.prefetch([b"x"])
    with pytest.raises(DataError, match="broken"):
        loader.load([b"x"])
