"""Layouts of the token sequence of a sample, which commands list before they load transformers."""

from enum import StrEnum


class PromptStyle(StrEnum):
    """Layout of the token sequence of a sample."""

    PLAIN = "plain"
    """Image, caption and end token, without the user's text (LLaVA stage 1)."""
    CHAT = "chat"
    """Whole conversation with its turn markers."""
    SHARED_PREFIX = "shared_prefix"
    """CHAT in which every question about an image is a branch after it: the image's tokens are
    computed once, and branches do not attend to each other. Equal to CHAT without an image."""
    FULL = "full"
    """CHAT with a loss on every token after the first, for pretraining a language model."""
