"""Answerer for a model served behind an OpenAI-compatible endpoint, such as vLLM.

The server applies its own chat template. Questions and images are sent to this endpoint only.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from core.chat.tokens import IMAGE_MARK
from core.io.endpoint import Endpoint, image_part
from evaluation.answerers.base import ModelReply
from evaluation.benchmarks.questions import VisualQuestion


class EndpointAnswerer:
    """Greedy decoding with a served model."""

    def __init__(self, endpoint: Endpoint, *, num_workers: int = 8) -> None:
        """Wrap an endpoint.

        Args:
            endpoint: The endpoint; its cache lets an interrupted evaluation resume.
            num_workers: Number of concurrent requests, which the server may batch.
        """
        self._endpoint, self._num_workers = endpoint, num_workers

    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        """Return one reply per question, in their order.

        Raises:
            EndpointError: If the endpoint finally refuses a request; earlier replies stay cached.
        """
        pool = ThreadPoolExecutor(self._num_workers)
        try:
            return list(pool.map(self._answer_one, questions))
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer_one(self, question: VisualQuestion) -> ModelReply:
        (turn,) = question.turns
        text = turn.content.replace(IMAGE_MARK, "", 1).strip("\n")
        content: list[dict[str, Any]] = [image_part(question.image), {"type": "text", "text": text}]
        completion = self._endpoint.completion(
            [{"role": "user", "content": content}], max_tokens=question.max_new_tokens
        )
        return ModelReply(
            text=completion.text.strip(),
            num_tokens=completion.num_tokens,
            is_truncated=completion.is_truncated,
        )
