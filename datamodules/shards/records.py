"""Parsing of records into turns, shared by reading and indexing.

The `record` of a manifest locates the conversation of a sample: `.txt` names the member with that
extension; anything else is a dotted path into the sample's JSON ("" is the JSON itself). An object
with `messages` is a conversation. A string is a caption if the sample has an image, and running
text otherwise.
"""

from typing import Any

from core.chat.tokens import IMAGE_MARK
from core.errors import DataError
from core.io.reading import RepeatedKeyError, parse_json
from core.samples import Role, Turn
from core.text import clean_text

JSON_MEMBER = "json"
_ROLES = tuple(Role)


class RecordError(DataError):
    """An unusable record; its `fault` is always set."""


def member_of(record: str) -> str:
    """Return the extension of the member that holds a record."""
    return record[1:] if record.startswith(".") else JSON_MEMBER


def parse_record(
    content: bytes, record: str, where: str, *, has_image: bool
) -> tuple[dict[str, Any], tuple[Turn, ...]]:
    """Return the sample's JSON ({} for a text member) and the turns of its record.

    Args:
        content: Bytes of the member.
        record: Location of the record, as in the manifest.
        where: Name of the sample in error messages.
        has_image: Whether the sample has an image.

    Raises:
        RecordError: If the record can't be used.
    """
    if record.startswith("."):
        return {}, _caption_turns(_decode_text(content, where), where, has_image=has_image)
    raw = _parse_json(content, where)
    value = _follow_path(raw, record, where)
    if isinstance(value, str):
        return raw, _caption_turns(value, where, has_image=has_image)
    if not isinstance(value, dict):
        message = f"{where}: record '{record}' is {value!r}, expected an object or a caption"
        raise RecordError(message, f"record '{record}' is neither an object nor a caption")
    return raw, _conversation_turns(value, where)


def _decode_text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: not UTF-8 ({error})", "text is not UTF-8") from error


def _caption_turns(text: str, where: str, *, has_image: bool) -> tuple[Turn, ...]:
    text = _clean(text, where).strip()
    if not text:
        raise RecordError(f"{where}: the text is empty", "empty text")
    if IMAGE_MARK in text:
        message = f"{where}: the text contains '{IMAGE_MARK}', which is reserved for the image"
        raise RecordError(message, f"text contains {IMAGE_MARK}")
    if not has_image:
        return (Turn(role=Role.TEXT, content=text),)
    return (
        Turn(role=Role.USER, content=IMAGE_MARK),
        Turn(role=Role.ASSISTANT, content=text),
    )


def _parse_json(content: bytes, where: str) -> dict[str, Any]:
    try:
        raw = parse_json(content)
    except RepeatedKeyError as error:
        raise RecordError(
            f"{where}: {error}; keep one of the values", "JSON repeats a key"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        message = f"{where}: not JSON ({error}); prepare the shard again"
        raise RecordError(message, "not JSON") from error
    if not isinstance(raw, dict):
        message = f"{where}: the JSON is {type(raw).__name__}, expected an object"
        raise RecordError(message, "the JSON is not an object")
    return raw


def _follow_path(raw: dict[str, Any], record: str, where: str) -> Any:
    value: Any = raw
    for name in filter(None, record.split(".")):
        if not isinstance(value, dict) or name not in value:
            found = ", ".join(sorted(value)) if isinstance(value, dict) else repr(value)
            raise RecordError(
                f"{where}: no record '{record}' (at '{name}', found: {found}); "
                "correct 'record' in the manifest or prepare the data again",
                f"no record '{record}'",
            )
        value = value[name]
    return value


def _conversation_turns(record: dict[str, Any], where: str) -> tuple[Turn, ...]:
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        message = f"{where}: 'messages' is {messages!r}, expected a list of messages"
        raise RecordError(message, "no messages")
    return tuple(_parse_turn(message, where) for message in messages)


def _parse_turn(message: Any, where: str) -> Turn:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if role not in _ROLES or not isinstance(content, str):
        raise RecordError(
            f"{where}: message {message!r} needs a role ({', '.join(_ROLES)}) and a text",
            "a message without role or text",
        )
    return Turn(role=Role(role), content=_clean(content, where))


def _clean(text: str, where: str) -> str:
    try:
        return clean_text(text)
    except DataError as error:
        raise RecordError(f"{where}: {error}", error.fault) from error
