"""What kind of picture some bytes are."""

_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def picture_type(picture: bytes) -> str | None:
    """Media type by the first bytes; None for what a browser may not show."""
    return next((kind for magic, kind in _MAGIC.items() if picture.startswith(magic)), None)
