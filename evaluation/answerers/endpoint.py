"""A model behind an OpenAI-compatible endpoint as an answerer: vLLM on an exported cell, or any.

The server applies its own chat template; questions and images are sent to it and nowhere else.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from core.chat.tokens import IMAGE_MARK
from core.io.endpoint import Endpoint, image_part
from core.samples import Turn
from evaluation.answerers.vlm import MAX_NEW_TOKENS, Reply


class EndpointAnswerer:
    """Greedy answers of a served model; also the chat format its prompts need."""

    def __init__(
        self, endpoint: Endpoint, *, max_new_tokens: int = MAX_NEW_TOKENS, at_once: int = 8
    ) -> None:
        """Wrap an endpoint.

        Args:
            endpoint: where to ask; its cache makes a stopped evaluation go on.
            max_new_tokens: longest answer.
            at_once: requests in flight; a server batches them.
        """
        self._endpoint, self._limit, self._at_once = endpoint, max_new_tokens, at_once

    def encode_prompt(self, turns: Sequence[Turn]) -> np.ndarray:
        """The words of a single question as bytes; the server makes ids of them."""
        (turn,) = turns
        text = turn.content.replace(IMAGE_MARK, "", 1).strip("\n")
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def answers(self, prompts: Sequence[np.ndarray], images: Sequence[bytes]) -> list[Reply]:
        """One reply per prompt and encoded image, in their order.

        Raises:
            EndpointError: it refused one for good; what it answered is kept.
        """
        pool = ThreadPoolExecutor(self._at_once)
        try:
            return list(pool.map(self._answer, prompts, images))
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, prompt: np.ndarray, image: bytes) -> Reply:
        text = bytes(prompt.astype(np.uint8)).decode("utf-8")
        content: list[dict[str, Any]] = [image_part(image), {"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        found = self._endpoint.completion(messages, max_tokens=self._limit)
        return Reply(
            text=found.text.strip(), num_tokens=found.num_tokens, is_truncated=found.is_cut
        )
