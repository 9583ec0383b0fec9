"""Conversations as the messages that chat templates of transformers expect."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from core.chat.tokens import IMAGE_MARK
from core.samples import Turn


def to_messages(turns: Sequence[Turn], image: Image.Image | None) -> list[dict[str, Any]]:
    """Return turns as messages whose content is a list of image and text parts.

    Args:
        turns: The turns of a conversation; one of them may contain the placeholder of the image.
        image: The image, for templates that are rendered and encoded in one call.
    """
    return [
        {"role": turn.role.value, "content": _content_parts(turn.content, image)} for turn in turns
    ]


def _content_parts(content: str, image: Image.Image | None) -> list[dict[str, Any]]:
    if IMAGE_MARK not in content:
        return [{"type": "text", "text": content}]
    before, _, after = content.partition(IMAGE_MARK)
    parts: list[dict[str, Any]] = [{"type": "image", "image": image}]
    if text := (before + after).strip("\n"):
        parts.append({"type": "text", "text": text})
    return parts
