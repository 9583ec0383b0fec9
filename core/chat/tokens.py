"""Constants of token sequences, each defined once."""

IGNORE_INDEX = -100
"""Label of a position without a target (the value torch's cross-entropy ignores)."""

IMAGE_MARK = "<image>"
"""How a conversation marks the place of its image."""

IMAGE_TOKEN = "<|image|>"
"""The tokenizer's placeholder, repeated once per visual token."""

PADDING_DOCUMENT = 0
"""Document id of padding positions in a packed row; real documents count from 1."""
