"""Replies that outlive an interruption: an evaluation goes on where it was stopped."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.io.files import append_line, whole_lines
from evaluation.answerers.vlm import Answerer, Reply


class KeptReplies:
    """An answerer that writes down what another one says, and asks it only for what is missing.

    It asks slice by slice. Where a slice is what the other one computes together anyway, replies
    are to the last character those of an evaluation that nobody stopped.
    """

    def __init__(
        self,
        answerer: Answerer,
        path: Path,
        *,
        slice_size: int,
        on_slice: Callable[[int, int], None] | None = None,
    ) -> None:
        """Read what was kept; a last line that a crash has cut is asked again.

        Args:
            answerer: Who replies.
            path: File of this model's replies, in JSON lines; made if it is missing.
            slice_size: Questions asked and kept together.
            on_slice: Called after every slice with the questions done and all of this call; what
                it raises stops the evaluation, with everything up to there kept.

        Raises:
            DataError: the file is damaged.
        """
        self._answerer, self._path = answerer, path
        self._size, self._on_slice = slice_size, on_slice
        self._kept = _read(path)

    def answers(self, prompts: Sequence[np.ndarray], images: Sequence[bytes]) -> list[Reply]:
        """One reply per prompt (int64 ids, shape (T,)) and encoded image."""
        replies: list[Reply] = []
        for start in range(0, len(prompts), self._size):
            part = slice(start, start + self._size)
            replies += self._slice(prompts[part], images[part])
            if self._on_slice is not None:
                self._on_slice(len(replies), len(prompts))
        return replies

    def _slice(self, prompts: Sequence[np.ndarray], images: Sequence[bytes]) -> list[Reply]:
        key = _digest(prompts, images)
        if key not in self._kept:
            replies = self._answerer.answers(prompts, images)
            if len(replies) != len(prompts):
                raise DataError(f"{len(prompts)} questions got {len(replies)} replies")
            self._keep(key, replies)
        return self._kept[key]

    def _keep(self, key: str, replies: list[Reply]) -> None:
        told = [[reply.text, reply.num_tokens, reply.is_truncated] for reply in replies]
        append_line(self._path, json.dumps({"slice": key, "replies": told}))
        self._kept[key] = replies


def _digest(prompts: Sequence[np.ndarray], images: Sequence[bytes]) -> str:
    """Of the questions of a slice, in their order."""
    digest = hashlib.sha256()
    for prompt, image in zip(prompts, images, strict=True):
        for content in (prompt.astype(np.int64).tobytes(), image):
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, list[Reply]]:
    kept = {}
    for number, line in enumerate(whole_lines(path), 1):
        try:
            raw = json.loads(line)
            kept[raw["slice"]] = [
                Reply(text=text, num_tokens=count, is_truncated=cut)
                for text, count, cut in raw["replies"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number} is damaged ({error}); remove the file, its questions are asked "
                "again"
            ) from error
    return kept
