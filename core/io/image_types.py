"""Media types of encoded images."""

_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def image_type(image: bytes) -> str | None:
    """Return the media type from the first bytes, or None for a format browsers may not support."""
    return next((kind for magic, kind in _MAGIC.items() if image.startswith(magic)), None)
