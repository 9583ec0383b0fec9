"""Reader of compiled Qt translations (`.qm`), bounded and safe against damaged files.

The format is that of Qt's `lrelease`: tagged sections, of which one holds the messages and one the
places of the messages by a hash. Only messages that name their source text are returned.
"""

import dataclasses
import struct
from enum import IntEnum

from core.errors import DataError

MAX_MESSAGES = 200_000
"""Largest number of messages of a catalogue."""

_MAGIC = bytes.fromhex("3cb86418caef9c95cd211cbf60a1bddd")
_NO_TEXT = 0xFFFFFFFF
"""Length of a text that is absent."""


class _Section(IntEnum):
    """Tags of sections."""

    HASHES = 0x42
    MESSAGES = 0x69


class _Field(IntEnum):
    """Tags inside a message."""

    END = 1
    TRANSLATION = 3
    OBSOLETE = 5
    SOURCE = 6
    CONTEXT = 7
    COMMENT = 8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A source text with its translation."""

    context: str
    """Class or file in which the text is used."""
    source: str
    translation: str
    """The first form, for messages that have several numbers."""


def read_catalogue(content: bytes, where: str) -> list[Message]:
    """Return the messages of a catalogue in the order of their hashes.

    Args:
        content: The bytes of the `.qm` file.
        where: Name of the file for error messages.

    Raises:
        DataError: If it is not a catalogue, is damaged or exceeds a limit.
    """
    try:
        return _read_messages(content)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise DataError(
            f"{where} is not an intact Qt catalogue: {error}; download its package again"
        ) from error


def _read_messages(content: bytes) -> list[Message]:
    if content[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"it starts with {content[:4]!r}, expected {_MAGIC[:4]!r}")
    sections = _read_sections(content)
    hashes, messages = sections.get(_Section.HASHES, b""), sections.get(_Section.MESSAGES, b"")
    if len(hashes) % 8:
        raise ValueError(f"its table of hashes has {len(hashes)} bytes, expected pairs of 4")
    offsets = dict.fromkeys(offset for _, offset in struct.iter_unpack(">II", hashes))
    if len(offsets) > MAX_MESSAGES:
        raise ValueError(f"it has more than {MAX_MESSAGES} messages")
    found = []
    for offset in offsets:
        message = _read_message(messages, offset)
        if message.source and message.translation:
            found.append(message)
    return found


def _read_sections(content: bytes) -> dict[int, bytes]:
    sections: dict[int, bytes] = {}
    offset = len(_MAGIC)
    while offset < len(content):
        tag, length = struct.unpack_from(">BI", content, offset)
        offset += 5
        sections[tag] = _slice(content, offset, length)
        offset += length
    return sections


def _read_message(messages: bytes, offset: int) -> Message:
    texts: dict[int, str] = {}
    while True:
        (tag,) = struct.unpack_from(">B", messages, offset)
        offset += 1
        if tag == _Field.END:
            break
        if tag == _Field.OBSOLETE:
            offset += 1
            continue
        if tag not in _TEXT_FIELDS:
            raise ValueError(f"field {tag} of a message at byte {offset - 1} is unknown")
        (length,) = struct.unpack_from(">I", messages, offset)
        offset += 4
        if length == _NO_TEXT:
            length = 0
        raw = _slice(messages, offset, length)
        offset += length
        encoding = "utf-16-be" if tag == _Field.TRANSLATION else "utf-8"
        texts.setdefault(tag, raw.decode(encoding))
    return Message(
        context=texts.get(_Field.CONTEXT, ""),
        source=texts.get(_Field.SOURCE, ""),
        translation=texts.get(_Field.TRANSLATION, ""),
    )


def _slice(content: bytes, start: int, length: int) -> bytes:
    if start + length > len(content):
        raise ValueError(f"{length} bytes at {start} lie beyond its end")
    return content[start : start + length]


_TEXT_FIELDS = frozenset({_Field.TRANSLATION, _Field.SOURCE, _Field.CONTEXT, _Field.COMMENT})
