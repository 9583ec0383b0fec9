"""Conversion of a row of a conversation file to a sample with its image."""

import base64
import dataclasses
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.chat.tokens import IMAGE_MARK
from core.errors import DataError
from core.io.images import decode_image, portable_image
from data_prep.foreign.columns import Columns
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.items import make_record
from data_prep.prepare.recipe import Kind

_SHOWN = 80
_PART_NAMES = ("image", "image_url", "url", "path")
"""Names under which a part of a message has its image, as in chat templates and chat APIs."""
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ForeignSample:
    """A conversation and its image."""

    messages: list[dict[str, str]]
    image: bytes | None
    """None for a conversation without an image."""
    is_recoded: bool = False
    """Whether the image was re-encoded, because programs show its format differently."""
    is_respelled: bool = False
    """Whether the file of the image was found under another spelling of its path."""


def convert_row(row: Mapping[str, Any], columns: Columns, images: Path | None) -> ForeignSample:
    """Convert a row.

    Args:
        row: Columns of the row.
        columns: What they mean.
        images: Folder to which the paths of images are relative; None if no folder was given.

    Raises:
        DroppedError: If the row can't be used; the reason is counted.
    """
    plain = {role: row.get(name) for role, name in columns.names.items()}
    inline = list[Any]()
    if columns.kind is Kind.CHAT:
        turns = _turns(plain["conversation"])
        plain["conversation"] = [_plain_turn(turn, inline) for turn in turns]
    references = _image_references(plain.get("image"))
    if inline and not references:
        plain["image"] = references = inline
    if len(references) > 1:
        raise DroppedError("several images", f"{len(references)} images")
    if not references and columns.kind is Kind.CAPTION:
        raise DroppedError("no image", "a caption needs one")
    if not references and _count_marks(plain) > 0:
        raise DroppedError("no image", f"the text contains {IMAGE_MARK}")
    record = make_record(
        columns.recipe(has_image=bool(references)),
        plain,
        {role: role for role in plain},
    )
    messages = _messages_of(record, has_image=bool(references))
    if not references:
        return ForeignSample(messages=messages, image=None)
    image, is_respelled = _load_image(references[0], images)
    try:
        decode_image(image)
        content, _ = portable_image(image)
    except DataError as error:
        raise DroppedError(f"image: {error.fault}", str(error)) from error
    return ForeignSample(
        messages=messages,
        image=content,
        is_recoded=content is not image,
        is_respelled=is_respelled,
    )


def _messages_of(record: Any, *, has_image: bool) -> list[dict[str, str]]:
    if isinstance(record, str):
        return [
            {"role": "user", "content": IMAGE_MARK},
            {"role": "assistant", "content": record},
        ]
    messages: list[dict[str, str]] = record["messages"]
    if has_image:
        return messages
    # Kind.QA marks an image in every question.
    return [
        {**message, "content": message["content"].removeprefix(f"{IMAGE_MARK}\n")}
        for message in messages
    ]


def _turns(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise DroppedError("no conversation", repr(value)[:_SHOWN])
    return value


def _plain_turn(turn: Any, inline: list[Any]) -> Any:
    """Return a turn whose content is a text; content in parts, as of chat APIs, is joined.

    Args:
        turn: The turn.
        inline: List to which the images that the parts hold or name are added.
    """
    if not isinstance(turn, dict):
        return turn
    name = "content" if turn.get("content") is not None else "value"
    content = turn.get(name)
    role = turn.get("role") if turn.get("role") is not None else turn.get("from")
    if isinstance(role, str):
        role = role.lower()
    if isinstance(content, list):
        content = _join_parts(content, inline)
    elif content is not None and not isinstance(content, str):
        raise DroppedError("text is no string", repr(content)[:_SHOWN])
    return {"role": role, "content": content}


def _join_parts(parts: list[Any], inline: list[Any]) -> str:
    """Join parts of a message; an image stands in a line of its own, as in our data."""
    texts = list[str]()
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("image", "image_url"):
            texts.append(IMAGE_MARK)
            inline += _image_references(_inline_image(part))
        elif kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise DroppedError("unknown part of a message", repr(part)[:_SHOWN])
    return "\n".join(texts)


def _inline_image(part: Mapping[str, Any]) -> Any:
    """Return the image of a part: a path, a URL or bytes; None if a column of the row holds it."""
    found = next((part[name] for name in _PART_NAMES if part.get(name)), None)
    return found.get("url") or found if isinstance(found, dict) else found


def _count_marks(plain: Mapping[str, Any]) -> int:
    turns = plain.get("conversation")
    texts = [turn.get("content") for turn in turns if isinstance(turn, dict)] if turns else []
    return sum(text.count(IMAGE_MARK) for text in texts if isinstance(text, str))


def _image_references(value: Any) -> list[Any]:
    """Return the images that a column names or holds; none for an empty value."""
    values = value if isinstance(value, list) else [value]
    return [one for one in values if one not in (None, "", b"")]


def _load_image(reference: Any, images: Path | None) -> tuple[bytes, bool]:
    """Return the bytes of an image, and whether its file has another spelling of the path.

    The bytes are those in the row, or of the file that it names.
    """
    if isinstance(reference, dict):
        held, named = reference.get("bytes"), reference.get("path")
        reference = held if held else named
    if isinstance(reference, bytes) and reference:
        return reference, False
    if not isinstance(reference, str) or not reference:
        raise DroppedError("no image", type(reference).__name__)
    if match := _DATA_URL.match(reference):
        return _decode_base64(reference[match.end() :]), False
    reference = reference.removeprefix("file://")
    if "://" in reference:
        raise DroppedError("image is a URL; data_prep.prepare downloads", reference[:_SHOWN])
    if images is None:
        raise DroppedError("image is a path, but --images is missing", reference[:_SHOWN])
    try:
        paths = [_resolve(images, spelling) for spelling in _spellings(reference)]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise DroppedError("no image file", str(paths[0])[-_SHOWN:])
        return found.read_bytes(), found != paths[0]
    except (OSError, DataError, ValueError) as error:
        raise DroppedError("no image file", f"{reference[:_SHOWN]!r}: {error}"[:200]) from error


def _spellings(path: str) -> list[str]:
    """Return a path as it is written, and as macOS and Windows write it."""
    composed = unicodedata.normalize("NFC", path)
    forms = (path, composed, unicodedata.normalize("NFD", path), composed.replace("\\", "/"))
    return list(dict.fromkeys(forms))


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise DroppedError("image: invalid base64", str(error)) from error


def _resolve(images: Path, reference: str) -> Path:
    """Return the path of an image in the folder; links that the user made there are followed.

    Raises:
        DataError: If the path leaves the folder.
    """
    path = Path(os.path.normpath(images.absolute() / reference))
    if "\0" in reference or not path.is_relative_to(os.path.normpath(images.absolute())):
        raise DataError(f"the path points outside {images}; use one inside it")
    return path
