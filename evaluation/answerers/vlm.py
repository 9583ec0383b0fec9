"""From prompts and images to replies: the Protocol, and the adapter around our own model."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from core.chat.format import ChatFormat

MAX_NEW_TOKENS = 32
"""Twice the usual 16, in which Llama-3's tokens cut Basque answers short."""

_BATCHES_PER_CALL = 16


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model said."""

    text: str
    num_tokens: int
    """Generated tokens without the end mark."""
    is_truncated: bool
    """It ran into the token limit before it ended."""


class Answerer(Protocol):
    """Anything that answers questions about images; the same question gets the same reply."""

    def answers(self, prompts: Sequence[np.ndarray], images: Sequence[bytes]) -> list[Reply]:
        """One reply per prompt (int64 ids, shape (T,)) and encoded image."""
        ...


class GeneratingModel(Protocol):
    """The part of the vision-language model that evaluation uses."""

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        images: Sequence[torch.Tensor | None],
        *,
        max_new_tokens: int,
        end_token_id: int,
        pad_token_id: int,
        batch_size: int,
    ) -> list[list[int]]:
        """Greedy answers without the end token, in the order of the prompts."""
        ...


class VlmAnswerer:
    """Greedy answers of a vision-language model whose images come through a lookup."""

    def __init__(
        self,
        model: GeneratingModel,
        chat_format: ChatFormat,
        features_of: Callable[[bytes], np.ndarray | torch.Tensor],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 64,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model, in evaluation mode.
            chat_format: Formats and decodes; the one it was trained with.
            features_of: Encoded image -> features of the tower (P, E) or pixels (C, H, W).
            max_new_tokens: Limit per reply.
            batch_size: Prompts per forward pass.
        """
        self._model = model
        self._format = chat_format
        self._features_of = features_of
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size

    @property
    def slice_size(self) -> int:
        """Questions whose replies are computed together."""
        return self._batch_size * _BATCHES_PER_CALL

    def answers(self, prompts: Sequence[np.ndarray], images: Sequence[bytes]) -> list[Reply]:
        """Generate in slices, so that the features of a large benchmark are never all held."""
        replies: list[Reply] = []
        pairs = list(zip(prompts, images, strict=True))
        for start in range(0, len(pairs), self.slice_size):
            part = pairs[start : start + self.slice_size]
            # In order of appearance: a lookup that logs or caches must not depend on hashing.
            features = {
                image: torch.as_tensor(self._features_of(image))
                for image in dict.fromkeys(image for _, image in part)
            }
            generated = self._model.generate(
                [prompt for prompt, _ in part],
                [features[image] for _, image in part],
                max_new_tokens=self._max_new_tokens,
                end_token_id=self._format.end_token_id,
                pad_token_id=self._format.pad_token_id,
                batch_size=self._batch_size,
            )
            replies += [self._reply(ids) for ids in generated]
        return replies

    def _reply(self, ids: list[int]) -> Reply:
        return Reply(
            text=self._format.decode(ids),
            num_tokens=len(ids),
            is_truncated=len(ids) >= self._max_new_tokens,
        )
