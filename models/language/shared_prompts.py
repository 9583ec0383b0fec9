"""Prompts of a batch in two parts: the head that several begin with (text and image), the tail.

A benchmark asks several questions about an image, in several languages, and all of them about one
blank image: heads are most of the tokens, and each needs to be computed once.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

_WORTH_IT = 0.7
"""Share of the positions below which a second pass over each batch pays (measured)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prompt:
    """One prompt and its image."""

    ids: np.ndarray
    """int64 of shape (T,), with placeholders."""
    image: torch.Tensor | None
    """Features (P, E); prompts about one image bring the same tensor."""
    head_length: int
    """Tokens up to the image's last one; 0: this prompt shares nothing."""

    @property
    def key(self) -> tuple[int, bytes]:
        """Equal for prompts with one head."""
        return (id(self.image) if self.head_length else 0), self.ids[: self.head_length].tobytes()


def make_prompt(ids: np.ndarray, image: torch.Tensor | None, image_token_id: int) -> Prompt:
    """A prompt that may share what it has up to its image's end; the tail is never empty."""
    (places,) = np.nonzero(ids == image_token_id)
    length = int(places[-1]) + 1 if len(places) else 0
    return Prompt(ids=ids, image=image, head_length=length if length < len(ids) else 0)


def arrange(prompts: Sequence[Prompt], batch_size: int) -> list[list[tuple[int, Prompt]]]:
    """Batches of prompts with their indices, sharing heads where that saves enough.

    Shared, prompts of one head stand side by side; apart, neighbours of equal length waste no
    padding and one pass reads all. The number of positions that a decoder computes decides, and
    nothing but the prompts decides that.
    """
    longest: dict[tuple[int, bytes], int] = {}
    first: dict[tuple[int, bytes], int] = {}
    for index, prompt in enumerate(prompts):
        longest[prompt.key] = max(longest.get(prompt.key, 0), len(prompt.ids))
        first.setdefault(prompt.key, index)

    def by_head(numbered: tuple[int, Prompt]) -> tuple[int, int, int]:
        prompt = numbered[1]
        return longest[prompt.key], first[prompt.key], len(prompt.ids)

    shared = _cut(sorted(enumerate(prompts), key=by_head), batch_size)
    whole = [dataclasses.replace(prompt, head_length=0) for prompt in prompts]
    apart = _cut(sorted(enumerate(whole), key=lambda pair: len(pair[1].ids)), batch_size)
    enough = _WORTH_IT * sum(map(_num_positions, apart))
    return shared if sum(map(_num_positions, shared)) < enough else apart


def _cut(order: list[tuple[int, Prompt]], size: int) -> list[list[tuple[int, Prompt]]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _num_positions(batch: list[tuple[int, Prompt]]) -> int:
    """With their padding."""
    heads = {prompt.key: prompt.head_length for _, prompt in batch}
    tails = [len(prompt.ids) - prompt.head_length for _, prompt in batch]
    return len(heads) * max(heads.values()) + len(tails) * max(tails)


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
    """Per prompt its image, if that is in the tail."""


def split(prompts: Sequence[Prompt]) -> SplitBatch:
    """Take the prompts of a batch apart."""
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
