"""The interface of every model that an evaluation can ask."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from evaluation.benchmarks.questions import VisualQuestion


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


def group_by_limit(questions: Sequence[VisualQuestion]) -> dict[int, list[int]]:
    """Return limit -> positions of the questions with this limit, the shortest limit first.

    Questions of different limits never share a batch: short replies would wait for long ones.
    """
    groups: dict[int, list[int]] = {}
    for position, question in enumerate(questions):
        groups.setdefault(question.max_new_tokens, []).append(position)
    return dict(sorted(groups.items()))
