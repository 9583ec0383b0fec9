"""Constants of token sequences."""

IGNORE_INDEX = -100
"""Label of a position that does not count in the loss (ignored by torch's cross-entropy)."""

IMAGE_MARK = "<image>"
"""Placeholder for the image in a conversation."""

IMAGE_TOKEN = "<|image|>"
"""Placeholder token, repeated once per visual token."""

PADDING_DOCUMENT = 0
"""Document id of padding positions in a packed row; documents are numbered from 1."""
