"""What kind of image some bytes are."""

_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def image_type(image: bytes) -> str | None:
    """Media type by the first bytes; None for what a browser may not show."""
    return next((kind for magic, kind in _MAGIC.items() if image.startswith(magic)), None)
