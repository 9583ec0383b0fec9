"""Prompts that share a head (text and image) which is computed once per batch.

A benchmark asks several questions about an image, in several languages, and all questions about one
blank image. Heads are therefore most of the tokens.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

_MAX_SHARED_FRACTION = 0.7
"""Share of the positions below which a second pass over each batch is faster (measured)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prompt:
    """Prompt with its image."""

    ids: np.ndarray
    """int64 of shape (T,), with placeholders."""
    image: torch.Tensor | None
    """Features (P, E); prompts about the same image hold the same tensor."""
    head_length: int
    """Number of tokens up to the last one of the image; 0 if the prompt shares nothing."""

    @property
    def key(self) -> tuple[int, bytes]:
        """Key that is equal for prompts with the same head."""
        return (id(self.image) if self.head_length else 0), self.ids[: self.head_length].tobytes()


def make_prompt(
    ids: np.ndarray, image: torch.Tensor | None, image_token_id: int, *, min_tail: int = 1
) -> Prompt:
    """Build a prompt whose head ends with its image; the tail has at least `min_tail` tokens."""
    (places,) = np.nonzero(ids == image_token_id)
    length = int(places[-1]) + 1 if len(places) else 0
    return Prompt(ids=ids, image=image, head_length=length if length + min_tail <= len(ids) else 0)


def arrange_batches(prompts: Sequence[Prompt], batch_size: int) -> list[list[tuple[int, Prompt]]]:
    """Arrange prompts with their indices into batches, sharing heads if that saves enough.

    Sharing puts prompts with the same head next to each other. Without sharing, neighbours have
    similar lengths, which saves padding, and one pass computes everything. The arrangement with
    fewer positions for the decoder wins, which depends on the prompts only.
    """
    longest: dict[tuple[int, bytes], int] = {}
    first: dict[tuple[int, bytes], int] = {}
    for index, prompt in enumerate(prompts):
        longest[prompt.key] = max(longest.get(prompt.key, 0), len(prompt.ids))
        first.setdefault(prompt.key, index)

    def by_head(numbered: tuple[int, Prompt]) -> tuple[int, int, int]:
        prompt = numbered[1]
        return longest[prompt.key], first[prompt.key], len(prompt.ids)

    shared = _split_batches(sorted(enumerate(prompts), key=by_head), batch_size)
    whole = [dataclasses.replace(prompt, head_length=0) for prompt in prompts]
    separate = _split_batches(
        sorted(enumerate(whole), key=lambda pair: len(pair[1].ids)), batch_size
    )
    limit = _MAX_SHARED_FRACTION * sum(map(_num_positions, separate))
    return shared if sum(map(_num_positions, shared)) < limit else separate


def _split_batches(order: list[tuple[int, Prompt]], size: int) -> list[list[tuple[int, Prompt]]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _num_positions(batch: list[tuple[int, Prompt]]) -> int:
    """Count the positions of a batch, including padding."""
    heads = {prompt.key: prompt.head_length for _, prompt in batch}
    tails = [len(prompt.ids) - prompt.head_length for _, prompt in batch]
    return len(heads) * max(heads.values()) + len(tails) * max(tails)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SplitBatch:
    """Prompts of a batch, with every distinct head once."""

    heads: list[np.ndarray]
    """H distinct heads; that of a prompt that shares nothing is empty."""
    head_images: list[torch.Tensor | None]
    head_of: list[int]
    """Index of each prompt's head."""
    tails: list[np.ndarray]
    tail_images: list[torch.Tensor | None]
    """Image of each prompt whose tail contains it, else None."""


def split_prompts(prompts: Sequence[Prompt]) -> SplitBatch:
    """Split the prompts of a batch into heads and tails."""
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
    """Return the left-padded ids (int64) and a mask of the tokens (bool), both (B, T)."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    is_token = np.zeros(ids.shape, dtype=bool)
    for at, row in enumerate(rows):
        ids[at, longest - len(row) :] = row
        is_token[at, longest - len(row) :] = True
    return ids, is_token
