"""A question as it is put to a model: a conversation and the image it is about."""

import dataclasses

from core.samples import Turn


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VisualQuestion:
    """A conversation that ends with a user turn, and its image.

    Two questions are equal if their turns and the bytes of their images are, so a question can
    serve as the key of its reply.
    """

    turns: tuple[Turn, ...]
    """The first user turn contains `core.chat.tokens.IMAGE_MARK` where the image belongs."""
    image: bytes = dataclasses.field(repr=False)
    """The encoded image (webp, jpg, png)."""
