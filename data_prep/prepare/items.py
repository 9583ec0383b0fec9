"""From a row of a published set to an item: a record per language and perhaps an image."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from core.chat.tokens import IMAGE_MARK
from core.errors import DataError
from data_prep.prepare.benchmark_recipe import read_item
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.recipe import Kind, SourceRecipe

Record = Any
"""A caption (text), a conversation ({"messages": [...]}) or a question of a benchmark."""

_SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "system": "system",
}  # fmt: skip
_MOST_CHARACTERS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """What one row gives."""

    key: str
    records: dict[str, Record]
    """Language -> record."""
    image: bytes | None = None
    image_url: str = ""
    sha256: str = ""
    """As the data set publishes it, or ""."""
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
    """The item of a row.

    Args:
        recipe: of the row's source.
        row: columns, images as bytes.
        key: name of the sample.
        base: language of the rows.
        target: language whose published translation is taken from the same row, if there is one.
        with_image: False for the texts alone.

    Raises:
        DroppedError: the row can't be used, or is to be left out.
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
    sha256 = _text(row, columns["sha256"]).strip() if "sha256" in columns else ""
    if "image_url" in columns:
        url = _text(row, columns["image_url"]).strip()
        return dataclasses.replace(item, image_url=url, sha256=sha256)
    name = columns.get("image", "")
    if recipe.kind is Kind.BENCHMARK:
        name = recipe.benchmark_recipe.columns.image
    if not name:
        return item
    return dataclasses.replace(item, image=_image(row.get(name)), sha256=sha256)


def _join_key(recipe: SourceRecipe, row: Mapping[str, Any]) -> str:
    """What rows of several places belong together by; empty without such a column."""
    name = recipe.columns.get("key", "")
    if recipe.kind is Kind.BENCHMARK:
        name = recipe.benchmark_recipe.columns.question_id
    return _text(row, name) if name else ""


def leave_out(row: Mapping[str, Any], rules: Mapping[str, str]) -> None:
    """Raise DroppedError if a column matches its rule."""
    for column, pattern in rules.items():
        if column not in row:
            raise DroppedError(f"no column {column}", ", ".join(map(str, row))[:200])
        if re.search(pattern, str(row[column])):
            raise DroppedError(f"left out by {column}", str(row[column])[:100])


def make_record(recipe: SourceRecipe, row: Mapping[str, Any], columns: Mapping[str, str]) -> Record:
    """The record of a row in one language.

    Raises:
        DroppedError: a column is missing, empty or not what it should be.
    """
    if recipe.kind is Kind.BENCHMARK:
        return _question(recipe, row)
    if recipe.kind is Kind.CAPTION:
        return _clean(row, columns["caption"])
    has_image = "image" in columns or "image_url" in columns
    if recipe.kind is Kind.QA:
        question, answer = (_clean(row, columns[name]) for name in ("question", "answer"))
        messages = [_message("user", question), _message("assistant", answer)]
    else:
        messages = _conversation(row.get(columns["conversation"]))
    if has_image:
        messages = _with_mark(messages)
    elif any(IMAGE_MARK in message["content"] for message in messages):
        raise DroppedError(f"text contains {IMAGE_MARK}")
    return {"messages": messages}


def _question(recipe: SourceRecipe, row: Mapping[str, Any]) -> Record:
    try:
        record = read_item(recipe.benchmark_recipe, row, "row")
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


def _conversation(value: Any) -> list[dict[str, str]]:
    """LLaVA's [{from, value}] or OpenAI's [{role, content}]."""
    if not isinstance(value, list) or not value:
        raise DroppedError("no conversation", repr(value)[:100])
    messages = []
    for turn in value:
        if not isinstance(turn, dict):
            raise DroppedError("a turn is no object", repr(turn)[:100])
        speaker = turn.get("from", turn.get("role"))
        content = turn.get("value", turn.get("content"))
        role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise DroppedError("unknown speaker", repr(speaker)[:100])
        if not isinstance(content, str) or not content.strip():
            raise DroppedError("empty text", repr(content)[:100])
        _check_letters(content)
        messages.append(_message(role, content.strip()))
    spoken = [message["role"] for message in messages if message["role"] != "system"]
    if spoken != ["user", "assistant"] * (len(spoken) // 2) or not spoken:
        raise DroppedError("turns do not alternate", " ".join(spoken)[:100])
    return messages


def _with_mark(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The image's place: where the data say, else before the first question."""
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


def _clean(row: Mapping[str, Any], column: str) -> str:
    text = _text(row, column).strip()
    _check_text(text, column)
    return text


def _check_text(text: str, where: str) -> None:
    if not text.strip():
        raise DroppedError("empty text", where)
    if IMAGE_MARK in text:
        raise DroppedError(f"text contains {IMAGE_MARK}", where)
    _check_letters(text)


def _check_letters(text: str) -> None:
    if len(text) > _MOST_CHARACTERS:
        raise DroppedError("text too long", f"{len(text):,} characters")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DroppedError("text is not Unicode", "a lone surrogate")


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        raise DroppedError(f"no column {column}", ", ".join(map(str, row))[:200])
    if isinstance(value, bool | bytes | list | dict):
        raise DroppedError("not a text", f"{column} is {type(value).__name__}")
    return str(value)


def _image(value: Any) -> bytes:
    image = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(image, bytes) or not image:
        raise DroppedError("no image", type(value).__name__)
    return image


# --- the texts of a record, in order --------------------------------------------------------------


def texts_of(record: Record) -> list[str]:
    """What is translated, in order."""
    return list(_walk(record))


def with_texts(record: Record, texts: list[str]) -> Record:
    """The same record with other texts.

    Args:
        record: any record.
        texts: as many as `texts_of` gave.
    """
    feed = iter(texts)
    return _map(record, lambda _: next(feed))


def _walk(record: Record) -> Iterator[str]:
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    _map(record, keep)
    yield from found


def _map(record: Record, change: Callable[[str], str]) -> Record:
    if isinstance(record, str):
        return change(record)
    if "messages" in record:
        turns = [{**turn, "content": change(turn["content"])} for turn in record["messages"]]
        return {**record, "messages": turns}
    changed = {**record, "question": change(record["question"])}
    for name in ("choices", "answers"):
        if name in record:
            # Ten people often gave one answer: it is translated once, and alike.
            distinct = {text: change(text) for text in dict.fromkeys(record[name])}
            changed[name] = [distinct[text] for text in record[name]]
    return changed
