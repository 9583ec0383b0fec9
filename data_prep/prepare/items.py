"""Conversion of a row of a published dataset to an item: a record per language and an image."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from core.chat.tokens import IMAGE_MARK
from core.errors import DataError
from core.text import clean_text
from data_prep.prepare.benchmark_recipe import is_left_out, read_item
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.recipe import Kind, SourceRecipe

Record = Any
"""A caption (text), a conversation ({"messages": [...]}) or a benchmark question."""

_ROLE_OF_SPEAKER = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_MAX_CHARACTERS = 100_000
_NUMBERED_MARK = re.compile(r"<image[ _]?\d+>", re.IGNORECASE)
"""Placeholder of one of several images, as in MMMU; a sample here has at most one image."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """The records and the image of a row."""

    key: str
    records: dict[str, Record]
    """Language -> record."""
    image: bytes | None = None
    image_url: str = ""
    sha256: str = ""
    """Hash of the image that the dataset publishes, or ""."""
    join_key: str = ""


def make_item(
    recipe: SourceRecipe,
    row: Mapping[str, Any],
    key: str,
    *,
    base: str,
    target: str,
    with_image: bool = True,
) -> Item:
    """Convert a row to an item.

    Args:
        recipe: Recipe of the source.
        row: Columns of the row, with images as bytes.
        key: Key of the sample.
        base: Language of the rows.
        target: Language whose published translation is read from the same row, if it is there.
        with_image: False to convert the texts only.

    Raises:
        DroppedError: If the row cannot be used or a rule leaves it out.
    """
    leave_out(row, recipe.leave_out)
    records = {base: make_record(recipe, row, recipe.columns)}
    same_row = recipe.published.get(target)
    if same_row is not None and not same_row.place:
        records[target] = make_record(recipe, row, same_row.renamed(recipe.columns))
    item = Item(key=key, records=records, join_key=_join_key(recipe, row))
    if not with_image:
        return item
    columns = recipe.columns
    sha256 = _read_text(row, columns["sha256"]).strip() if "sha256" in columns else ""
    if "image_url" in columns:
        url = _read_text(row, columns["image_url"]).strip()
        return dataclasses.replace(item, image_url=url, sha256=sha256)
    name = columns.get("image", "")
    if recipe.kind is Kind.BENCHMARK:
        name = recipe.benchmark_recipe.columns.image
    if not name:
        return item
    return dataclasses.replace(item, image=_image_bytes(row.get(name)), sha256=sha256)


def _join_key(recipe: SourceRecipe, row: Mapping[str, Any]) -> str:
    """Return the key that matches rows of several locations; empty without such a column."""
    name = recipe.columns.get("key", "")
    if recipe.kind is Kind.BENCHMARK:
        name = recipe.benchmark_recipe.columns.question_id
    return _read_text(row, name) if name else ""


def leave_out(row: Mapping[str, Any], rules: Mapping[str, str]) -> None:
    """Apply the rules that leave rows out.

    Raises:
        DroppedError: If a column matches its rule or is missing.
    """
    for column, pattern in rules.items():
        if column not in row:
            raise DroppedError(f"no column {column}", ", ".join(map(str, row))[:200])
        if re.search(pattern, str(row[column])):
            raise DroppedError(f"left out by {column}", str(row[column])[:100])


def make_record(recipe: SourceRecipe, row: Mapping[str, Any], columns: Mapping[str, str]) -> Record:
    """Convert a row to its record in one language.

    Raises:
        DroppedError: If a column is missing, empty or holds an unexpected value.
    """
    if recipe.kind is Kind.BENCHMARK:
        return _make_question(recipe, row)
    if recipe.kind is Kind.CAPTION:
        return _read_clean_text(row, columns["caption"])
    has_image = "image" in columns or "image_url" in columns
    if recipe.kind is Kind.QA:
        question, answer = (_read_clean_text(row, columns[name]) for name in ("question", "answer"))
        messages = [_message("user", question), _message("assistant", answer)]
    else:
        messages = _parse_conversation(row.get(columns["conversation"]))
    if has_image:
        messages = _with_image_mark(messages)
    elif any(IMAGE_MARK in message["content"] for message in messages):
        raise DroppedError(f"text contains {IMAGE_MARK}")
    return {"messages": messages}


def _make_question(recipe: SourceRecipe, row: Mapping[str, Any]) -> Record:
    rules = recipe.benchmark_recipe
    try:
        if is_left_out(rules, row, "row"):
            raise DroppedError(f"left out by {rules.leave_out_if}")
        record = read_item(rules, row, "row")
    except DataError as error:
        raise DroppedError(error.fault or "unreadable row", str(error)) from error
    except (KeyError, ValueError, TypeError) as error:
        raise DroppedError("unreadable row", repr(error)) from error
    for text in texts_of(record):
        _check_text(text, "question, choices or answers")
    if "choices" in record and not 0 <= record["correct_choice"] < len(record["choices"]):
        raise DroppedError("no such choice", str(record["correct_choice"]))
    return record


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _parse_conversation(value: Any) -> list[dict[str, str]]:
    """Parse LLaVA's [{from, value}] or OpenAI's [{role, content}]."""
    if not isinstance(value, list) or not value:
        raise DroppedError("no conversation", repr(value)[:100])
    messages = []
    for turn in value:
        if not isinstance(turn, dict):
            raise DroppedError("a turn is not an object", repr(turn)[:100])
        speaker = turn.get("from", turn.get("role"))
        content = turn.get("value", turn.get("content"))
        role = _ROLE_OF_SPEAKER.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise DroppedError("unknown speaker", repr(speaker)[:100])
        text = _clean(content).strip() if isinstance(content, str) else ""
        if not text:
            raise DroppedError("empty text", repr(content)[:100])
        _check_content(text)
        messages.append(_message(role, text))
    spoken = [message["role"] for message in messages if message["role"] != "system"]
    if spoken != ["user", "assistant"] * (len(spoken) // 2) or not spoken:
        raise DroppedError("turns do not alternate", " ".join(spoken)[:100])
    return messages


def _with_image_mark(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Add the image placeholder before the first question unless the conversation has one."""
    marks = sum(message["content"].count(IMAGE_MARK) for message in messages)
    if marks > 1:
        raise DroppedError("several images", f"{marks} x {IMAGE_MARK}")
    first = next(at for at, message in enumerate(messages) if message["role"] == "user")
    if marks and IMAGE_MARK not in messages[first]["content"]:
        raise DroppedError("the image is not in the first question")
    if marks:
        return messages
    marked = _message("user", f"{IMAGE_MARK}\n{messages[first]['content']}")
    return [*messages[:first], marked, *messages[first + 1 :]]


def _read_clean_text(row: Mapping[str, Any], column: str) -> str:
    text = _read_text(row, column).strip()
    _check_text(text, column)
    return text


def _check_text(text: str, where: str) -> None:
    if not text.strip():
        raise DroppedError("empty text", where)
    if IMAGE_MARK in text:
        raise DroppedError(f"text contains {IMAGE_MARK}", where)
    _check_content(text)


def _check_content(text: str) -> None:
    if len(text) > _MAX_CHARACTERS:
        raise DroppedError("text too long", f"{len(text):,} characters")
    if mark := _NUMBERED_MARK.search(text):
        raise DroppedError("placeholder of a numbered image", mark.group())


def _read_text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        raise DroppedError(f"no column {column}", ", ".join(map(str, row))[:200])
    if isinstance(value, bool | bytes | list | dict):
        raise DroppedError("not a text", f"{column} is {type(value).__name__}")
    return _clean(str(value))


def _clean(text: str) -> str:
    try:
        return clean_text(text)
    except DataError as error:
        raise DroppedError(error.fault, str(error)) from error


def _image_bytes(value: Any) -> bytes:
    image = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(image, bytes) or not image:
        raise DroppedError("no image", type(value).__name__)
    return image


# --- the texts of a record, in order --------------------------------------------------------------


def texts_of(record: Record) -> list[str]:
    """Return the texts to translate, in order."""
    texts: list[str] = []

    def collect_text(text: str) -> str:
        texts.append(text)
        return text

    _map_texts(record, collect_text)
    return texts


def with_texts(record: Record, texts: list[str]) -> Record:
    """Return the record with other texts.

    Args:
        record: Any record.
        texts: The new texts, as many as `texts_of` returns.
    """
    remaining = iter(texts)
    return _map_texts(record, lambda _: next(remaining))


def _map_texts(record: Record, change: Callable[[str], str]) -> Record:
    if isinstance(record, str):
        return change(record)
    if "messages" in record:
        turns = [{**turn, "content": change(turn["content"])} for turn in record["messages"]]
        return {**record, "messages": turns}
    changed = {**record, "question": change(record["question"])}
    for name in ("choices", "answers"):
        if name in record:
            # Several annotators often gave the same answer, which gets a single translation.
            distinct = {text: change(text) for text in dict.fromkeys(record[name])}
            changed[name] = [distinct[text] for text in record[name]]
    return changed
