"""Decoding of images ahead of the model that answers questions about them."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch


class ImageLoader:
    """Encodes images for a model, on threads if there are any."""

    def __init__(
        self, encode: Callable[[bytes], np.ndarray | torch.Tensor], *, num_threads: int = 0
    ) -> None:
        """Prepare the threads.

        Args:
            encode: Maps an encoded image to tower features (P, E) or pixels (C, H, W).
            num_threads: Threads that decode; 0 decodes in the calling thread, when asked.
        """
        self._encode = encode
        self._pool = ThreadPoolExecutor(num_threads) if num_threads else None
        self._pending: dict[bytes, Future[np.ndarray | torch.Tensor]] = {}

    def prefetch(self, images: Iterable[bytes]) -> None:
        """Start decoding images that `load` will be asked for next."""
        if self._pool is not None:
            for image in images:
                if image not in self._pending:
                    self._pending[image] = self._pool.submit(self._encode, image)

    def load(self, images: Iterable[bytes]) -> dict[bytes, torch.Tensor]:
        """Return every distinct image as a tensor, in order of appearance."""
        distinct = list(dict.fromkeys(images))
        if self._pool is None:
            return {image: torch.as_tensor(self._encode(image)) for image in distinct}
        self.prefetch(distinct)
        return {image: torch.as_tensor(self._pending.pop(image).result()) for image in distinct}
