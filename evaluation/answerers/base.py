"""The interface of every model that an evaluation can ask."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from evaluation.benchmarks.questions import VisualQuestion

MAX_NEW_TOKENS = 32
"""Twice the usual 16, at which Basque answers are truncated under Llama 3's tokenizer."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelReply:
    """The reply of a model to one question."""

    text: str
    num_tokens: int
    """Number of generated tokens, without the end-of-turn token."""
    is_truncated: bool
    """The token limit was reached before the model ended its turn."""


class Answerer(Protocol):
    """A model that answers questions about images.

    Each answerer formats and encodes the conversation for itself. The same question always gets
    the same reply.
    """

    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        """Return one reply per question, in their order."""
        ...
