"""A question as it is put to a model: a conversation and the image it is about."""

import dataclasses

from core.samples import Turn

MAX_NEW_TOKENS = 32
"""Twice the usual 16, at which Basque answers are truncated under Llama 3's tokenizer."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VisualQuestion:
    """A conversation that ends with a user turn, and its image.

    Two questions are equal if their turns, the bytes of their images, their limits and their
    options are, so a question can serve as the key of its reply.
    """

    turns: tuple[Turn, ...]
    """The first user turn contains `core.chat.tokens.IMAGE_MARK` where the image belongs."""
    image: bytes = dataclasses.field(repr=False)
    """The encoded image (webp, jpg, png)."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """Maximum number of tokens of the reply."""
    options: tuple[str, ...] = ()
    """The only allowed replies; empty if the reply is free."""
