"""Cache of replies on disk, from which an interrupted evaluation resumes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.jsonl import append_jsonl, recover_jsonl
from evaluation.answerers.base import Answerer, ModelReply
from evaluation.benchmarks.questions import VisualQuestion

BATCHES_PER_SLICE = 16
"""Batches of questions between two writes: an interrupted evaluation loses at most this many."""


class CachedAnswerer:
    """An answerer that stores the replies of another one and asks only questions not yet stored.

    Questions are asked and stored in slices. If the wrapped answerer also computes a slice in one
    call, the replies of a resumed evaluation are identical to those of an uninterrupted one.
    """

    def __init__(
        self,
        answerer: Answerer,
        path: Path,
        *,
        slice_size: int,
        on_slice: Callable[[int, int], None] | None = None,
        prefetch: Callable[[Sequence[VisualQuestion]], None] | None = None,
    ) -> None:
        """Load the stored replies, ignoring a partially written last line.

        Args:
            answerer: The answerer whose replies are stored.
            path: JSON lines file for this model's replies; created if it does not exist.
            slice_size: Number of questions that are asked and stored together.
            on_slice: Called after every slice with the number of questions answered and the total
                of this call. An exception that it raises stops the evaluation; the replies up to
                then stay stored.
            prefetch: Called with the questions of the next slice before the model answers one.

        Raises:
            DataError: If the file is damaged.
        """
        self._answerer, self._path = answerer, path
        self._slice_size, self._on_slice = slice_size, on_slice
        self._prefetch = prefetch
        fix = "delete the file to ask its questions again"
        self._stored: dict[str, list[ModelReply]] = dict(
            recover_jsonl(path, _parse_stored_slice, fix=fix)
        )

    @property
    def num_stored(self) -> int:
        """Number of stored replies."""
        return sum(map(len, self._stored.values()))

    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        """Return one reply per question, in their order.

        Raises:
            DataError: If the wrapped answerer returns too few or too many replies.
        """
        replies: list[ModelReply] = []
        for start in range(0, len(questions), self._slice_size):
            end = start + self._slice_size
            self._announce(questions[end : end + self._slice_size])
            replies += self._answer_slice(questions[start:end])
            if self._on_slice is not None:
                self._on_slice(len(replies), len(questions))
        return replies

    def _announce(self, questions: Sequence[VisualQuestion]) -> None:
        if self._prefetch is not None and questions and _slice_key(questions) not in self._stored:
            self._prefetch(questions)

    def _answer_slice(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        key = _slice_key(questions)
        if key not in self._stored:
            replies = self._answerer.answer(questions)
            if len(replies) != len(questions):
                raise DataError(
                    f"{len(questions)} questions got {len(replies)} replies; expected one each"
                )
            self._store(key, replies)
        return self._stored[key]

    def _store(self, key: str, replies: list[ModelReply]) -> None:
        rows = [[reply.text, reply.num_tokens, reply.is_truncated] for reply in replies]
        append_jsonl(self._path, [{"slice": key, "replies": rows}])
        self._stored[key] = replies


def _slice_key(questions: Sequence[VisualQuestion]) -> str:
    """Return a digest of the questions of a slice and their order."""
    digest = hashlib.sha256()
    for question in questions:
        turns = [[turn.role.value, turn.content] for turn in question.turns]
        text = json.dumps([turns, question.max_new_tokens, question.options])
        for content in (text.encode("utf-8"), question.image):
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _parse_stored_slice(raw: dict[str, Any]) -> tuple[str, list[ModelReply]]:
    replies = [
        ModelReply(text=text, num_tokens=num_tokens, is_truncated=is_truncated)
        for text, num_tokens, is_truncated in raw["replies"]
    ]
    return raw["slice"], replies
