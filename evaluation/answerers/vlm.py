"""Answerer for the vision-language models of this project."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from core.chat.format import ChatFormat
from evaluation.answerers.base import ModelReply, group_by_limit
from evaluation.answerers.cached import BATCHES_PER_SLICE
from evaluation.answerers.image_loader import ImageLoader
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits


class GeneratingModel(Protocol):
    """The part of the vision-language model that an evaluation uses."""

    def generate(  # noqa: PLR0913 - all but the first two are keywords
        self,
        prompts: Sequence[np.ndarray],
        images: Sequence[torch.Tensor | None],
        *,
        max_new_tokens: int,
        end_token_id: int,
        pad_token_id: int,
        batch_size: int,
        allowed: Sequence[Sequence[Sequence[int]]] | None = None,
    ) -> list[list[int]]:
        """Decode greedily and return ids without the end token, in the order of the prompts."""
        ...

    def log_likelihoods(
        self,
        conversations: Sequence[tuple[np.ndarray, int]],
        images: Sequence[torch.Tensor | None],
        *,
        pad_token_id: int,
        batch_size: int,
    ) -> list[float]:
        """Return the log-likelihood (nats) of the given number of last tokens."""
        ...


class VlmAnswerer:
    """Greedy decoding with a vision-language model whose image features come from a lookup."""

    def __init__(
        self,
        model: GeneratingModel,
        chat_format: ChatFormat,
        features_of: Callable[[bytes], np.ndarray | torch.Tensor],
        *,
        batch_size: int = 64,
        limits: ReplyLimits | None = None,
        num_threads: int = 0,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model, in evaluation mode.
            chat_format: The chat format that the model was trained with.
            features_of: Maps an encoded image to tower features (P, E) or pixels (C, H, W).
            batch_size: Number of prompts per forward pass, for replies of the default limit.
            limits: Limits of the replies; batches of longer ones are smaller.
            num_threads: Threads that decode images, so that a GPU does not wait for them; 0 decodes
                in the calling thread.
        """
        self._model = model
        self._chat_format = chat_format
        self._images = ImageLoader(features_of, num_threads=num_threads)
        self._batch_size = batch_size
        self._limits = limits or ReplyLimits()

    @property
    def slice_size(self) -> int:
        """Number of questions that are passed to the model in one call."""
        return self._batch_size * BATCHES_PER_SLICE

    def prefetch(self, questions: Sequence[VisualQuestion]) -> None:
        """Start decoding the images of the questions that are asked next."""
        self._images.prefetch(question.image for question in questions)

    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        """Return one reply per question, in their order.

        Questions are processed in slices so that the image features of a large benchmark are
        never in memory all at once.
        """
        replies: list[ModelReply] = []
        for start in range(0, len(questions), self.slice_size):
            replies += self._answer_slice(questions[start : start + self.slice_size])
        return replies

    def rate(self, pairs: Sequence[tuple[VisualQuestion, str]]) -> list[float]:
        """Return the log-likelihood (nats) of every reply to its question."""
        rates: list[float] = []
        for start in range(0, len(pairs), self.slice_size):
            asked = pairs[start : start + self.slice_size]
            features = self._images.load(question.image for question, _ in asked)
            rates += self._model.log_likelihoods(
                [
                    self._chat_format.encode_reply(question.turns, reply)
                    for question, reply in asked
                ],
                [features[question.image] for question, _ in asked],
                pad_token_id=self._chat_format.pad_token_id,
                batch_size=self._batch_size,
            )
        return rates

    def _option_ids(self, question: VisualQuestion) -> list[list[int]]:
        """Return the token ids of the only allowed replies."""
        encoded = (self._chat_format.encode_reply(question.turns, one) for one in question.options)
        return [ids[-num_reply:].tolist() for ids, num_reply in encoded]

    def _answer_slice(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        features = self._images.load(question.image for question in questions)
        replies: dict[int, ModelReply] = {}
        for limit, positions in group_by_limit(questions).items():
            asked = [questions[position] for position in positions]
            allowed = [self._option_ids(question) for question in asked]
            # A guided reply is never truncated: it ends behind the longest option at the latest.
            longest = max((len(ids) for options in allowed for ids in options), default=0)
            limit = max(limit, longest + 1)
            generated = self._model.generate(
                [self._chat_format.encode_prompt(question.turns) for question in asked],
                [features[question.image] for question in asked],
                max_new_tokens=limit,
                end_token_id=self._chat_format.end_token_id,
                pad_token_id=self._chat_format.pad_token_id,
                batch_size=self._limits.prompts_per_batch(
                    self._batch_size, limit, self._chat_format.num_image_tokens
                ),
                allowed=allowed,
            )
            for position, ids in zip(positions, generated, strict=True):
                replies[position] = ModelReply(
                    text=self._chat_format.decode(ids),
                    num_tokens=len(ids),
                    is_truncated=len(ids) >= limit,
                )
        return [replies[position] for position in range(len(questions))]
