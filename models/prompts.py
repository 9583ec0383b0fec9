"""Prompts of a batch in two parts: the head that several begin with (text and picture), the tail.

A benchmark asks several questions about a picture, in several languages, and all of them about one
blank picture: heads are most of the tokens, and each needs to be computed once.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prompt:
    """One prompt and its picture."""

    ids: np.ndarray
    """int64 of shape (T,), with placeholders."""
    image: torch.Tensor | None
    """Features (P, E); prompts about one picture bring the same tensor."""
    head_length: int
    """Tokens up to the picture's last one; 0: this prompt shares nothing."""

    @property
    def key(self) -> tuple[int, bytes]:
        """Equal for prompts with one head."""
        return (id(self.image) if self.head_length else 0), self.ids[: self.head_length].tobytes()


def make_prompt(ids: np.ndarray, image: torch.Tensor | None, image_token_id: int) -> Prompt:
    """A prompt that may share what it has up to its picture's end; the tail is never empty."""
    (places,) = np.nonzero(ids == image_token_id)
    length = int(places[-1]) + 1 if len(places) else 0
    return Prompt(ids=ids, image=image, head_length=length if length < len(ids) else 0)


def in_batches(prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Indices of the prompts, batch by batch: one head side by side, then neighbours in length."""
    longest: dict[tuple[int, bytes], int] = {}
    first: dict[tuple[int, bytes], int] = {}
    for index, prompt in enumerate(prompts):
        longest[prompt.key] = max(longest.get(prompt.key, 0), len(prompt.ids))
        first.setdefault(prompt.key, index)

    def rank(index: int) -> tuple[int, int, int]:
        prompt = prompts[index]
        return longest[prompt.key], first[prompt.key], len(prompt.ids)

    order = sorted(range(len(prompts)), key=rank)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SplitBatch:
    """The prompts of a batch, every head once."""

    heads: list[np.ndarray]
    """H of them; a prompt that shares nothing has the empty head."""
    head_images: list[torch.Tensor | None]
    head_of: list[int]
    """Prompt -> place of its head."""
    tails: list[np.ndarray]
    tail_images: list[torch.Tensor | None]
    """Per prompt its picture, if that is in the tail."""


def split(prompts: Sequence[Prompt]) -> SplitBatch:
    """Take the prompts of a batch apart; where no two share a head, all of it is tail."""
    if len({prompt.key for prompt in prompts}) == len(prompts):
        prompts = [dataclasses.replace(prompt, head_length=0) for prompt in prompts]
    by_key = {prompt.key: prompt for prompt in prompts}
    places = {key: place for place, key in enumerate(by_key)}
    return SplitBatch(
        heads=[prompt.ids[: prompt.head_length] for prompt in by_key.values()],
        head_images=[p.image if p.head_length else None for p in by_key.values()],
        head_of=[places[prompt.key] for prompt in prompts],
        tails=[prompt.ids[prompt.head_length :] for prompt in prompts],
        tail_images=[None if prompt.head_length else prompt.image for prompt in prompts],
    )


def left_padded(rows: Sequence[np.ndarray], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (int64) and "is a token" (bool), both (B, T): rows end together."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    is_token = np.zeros(ids.shape, dtype=bool)
    for at, row in enumerate(rows):
        ids[at, longest - len(row) :] = row
        is_token[at, longest - len(row) :] = True
    return ids, is_token
