"""Single-pass scan of a tar of any origin: its samples, its checksum and its compact index.

The scan reads a stream sequentially, so a remote shard is scanned while it downloads. Nothing is
extracted, and unusable samples are counted by reason. Separate from `reader`, whose scan is strict
and accepts only tars that this project wrote.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable

from core.errors import UNDECODABLE, DataError
from core.io.images import image_size
from core.samples import Turn
from datamodules.shards.index import BLOCK_BYTES, IndexHeader, ShardIndex, compact_index
from datamodules.shards.records import JSON_MEMBER, RecordError, member_of, parse_record
from datamodules.shards.tar_members import (
    IMAGE_EXTENSIONS,
    MAX_IMAGE_BYTES,
    ByteStream,
    HashingStream,
    TarMember,
    TarSample,
    group_members,
)

REPEATED_KEY = "the key appears twice"
"""Fault of members of a sample that do not follow each other, or of two samples of one name."""
_SEPARATORS = re.compile("[._-]")
_RECORD_CANDIDATES = ("", ".txt", "caption", "text")
_MAX_INSPECTED_SAMPLES = 100
_MAX_RECORD_BYTES = 16 << 20
_MAX_SIDE = 2**16 - 1
_MAX_KEY_BYTES = 255
_NO_RECORD = (0, 0)
"""Block and size of a missing text, which a reader finds empty."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScanRules:
    """Requirements that a usable sample meets."""

    record: str
    """Location of the record (see `records`)."""
    language: str
    """Language of the records."""
    has_image: bool
    """Whether samples need an image."""

    @property
    def is_one_of_several(self) -> bool:
        """Return whether samples have further records, as a rule in other languages.

        Such a record is a path of several parts (`caption.eu`, `.eu.txt`), or names its language
        (`caption_eu`, `.eu`).
        """
        parts = _SEPARATORS.split(self.record.lower())
        language = _SEPARATORS.split(self.language.lower())
        names_language = any(parts[i : i + len(language)] == language for i in range(len(parts)))
        return "." in self.record.strip(".") or names_language


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScanResult:
    """Result of scanning a tar."""

    index: ShardIndex
    """Index of the usable samples, and of those with an unusable or missing text in one of several
    languages; may be empty."""
    sha256: str
    num_bytes: int
    unusable: Counter[str]
    """Number of unusable samples by reason."""
    examples: dict[str, str]
    """The first unusable sample of each reason."""
    ignored: Counter[str]
    """Number of members that no sample needs, by extension or kind."""


OnTurns = Callable[[str, tuple[Turn, ...] | RecordError], None]
"""Receives the key of an indexed sample and its turns, or the fault of its text."""


def scan_tar(
    stream: ByteStream, name: str, rules: ScanRules, on_turns: OnTurns | None = None
) -> ScanResult:
    """Scan a tar to its end.

    A sample whose text can't be used is left out. If its record is one of several (see
    `ScanRules.is_one_of_several`), it stays in the index, so that the languages stay parallel, and
    training counts it.

    Args:
        stream: The bytes of the tar.
        name: Path or URL, for error messages.
        rules: Requirements that a usable sample meets.
        on_turns: Called with every indexed sample, in the order of the index.

    Raises:
        DataError: If the stream is not a complete, uncompressed tar.
    """
    source, member = HashingStream(stream), member_of(rules.record)
    rows, keys, seen = list[tuple[int, int, int, int, int, int]](), list[str](), set[str]()
    unusable, ignored, examples = Counter[str](), Counter[str](), dict[str, str]()
    images = IMAGE_EXTENSIONS if rules.has_image else ()
    for sample in group_members(source, name, {member, *images}, ignored):
        ignored.update(f".{kind}" for kind in sample.members if kind not in (member, *images))
        try:
            if sample.key in seen:
                raise RecordError(f"'{sample.key}' appears twice", REPEATED_KEY)
            seen.add(sample.key)
            row, turns = _parse_sample(sample, member, rules)
        except RecordError as error:
            unusable[error.fault] += 1
            examples.setdefault(error.fault, f"{name}: {sample.key}")
        else:
            if isinstance(turns, RecordError):
                unusable[turns.fault] += 1
                examples.setdefault(turns.fault, f"{name}: {sample.key}")
            rows.append(row)
            keys.append(sample.key)
            if on_turns is not None:
                on_turns(sample.key, turns)
    header = IndexHeader(member=member, sha256=source.hexdigest(), num_bytes=source.position)
    return ScanResult(
        index=compact_index(rows, keys, header),
        sha256=header.sha256,
        num_bytes=header.num_bytes,
        unusable=unusable,
        examples=examples,
        ignored=ignored,
    )


def guess_record(stream: ByteStream, name: str, *, has_image: bool) -> str | None:
    """Detect the location of the records from the first samples of a tar; None if it has none.

    Candidates, in this order: JSON with `messages`; a `.txt` member; JSON with a string `caption`;
    JSON with a string `text`.

    Raises:
        DataError: If no candidate matches; the message lists the members.
    """
    found: Counter[str] = Counter()
    samples = group_members(HashingStream(stream), name, {JSON_MEMBER, "txt"}, Counter())
    for _, sample in zip(range(_MAX_INSPECTED_SAMPLES), samples, strict=False):
        found.update(f".{kind}" for kind in sample.members)
        for record in _RECORD_CANDIDATES:
            member = sample.members.get(member_of(record))
            try:
                if member is not None:
                    parse_record(member.content, record, name, has_image=has_image)
                    return record
            except RecordError:
                continue
    if not found:
        return None
    members = ", ".join(f"{kind} ({count})" for kind, count in found.most_common())
    raise DataError(
        f"{name}: no text found in its first samples; their members are: {members}. Set --record "
        "to the .EXTENSION of a text member, or to a dotted path inside the JSON"
    )


def _parse_sample(
    sample: TarSample, member: str, rules: ScanRules
) -> tuple[tuple[int, int, int, int, int, int], tuple[Turn, ...] | RecordError]:
    """Return the index row and the turns of a sample; raise RecordError if it is left out."""
    if sample.problem:
        raise RecordError(sample.problem, sample.problem)
    if len(sample.key.encode("utf-8")) > _MAX_KEY_BYTES:
        raise RecordError("the key is too long", f"a key longer than {_MAX_KEY_BYTES} bytes")
    record_row, turns = _parse_text(sample, member, rules)
    if not rules.has_image:
        return (*record_row, 0, 0, 0, 0), turns
    images = [sample.members[kind] for kind in IMAGE_EXTENSIONS if kind in sample.members]
    if len(images) != 1:
        reason = "two images" if images else "no image"
        raise RecordError(reason, reason)
    width, height = _image_size(images[0])
    image_row = (images[0].offset // BLOCK_BYTES, images[0].size, width, height)
    return (*record_row, *image_row), turns


def _parse_text(
    sample: TarSample, member: str, rules: ScanRules
) -> tuple[tuple[int, int], tuple[Turn, ...] | RecordError]:
    """Return block and size of the record, and its turns."""
    record, place = sample.members.get(member), _NO_RECORD
    try:
        if record is None:
            raise RecordError(f"no .{member}", f"no .{member} member")
        if record.size > _MAX_RECORD_BYTES:
            raise RecordError(
                "the record is too large", f"a .{member} member over {_MAX_RECORD_BYTES} bytes"
            )
        place = (record.offset // BLOCK_BYTES, record.size)
        _, turns = parse_record(record.content, rules.record, sample.key, has_image=rules.has_image)
    except RecordError as error:
        # A JSON that can't be read is missing in all languages.
        is_kept = rules.is_one_of_several and (place != _NO_RECORD or member != JSON_MEMBER)
        if not is_kept:
            raise
        return place, error
    return place, turns


def _image_size(member: TarMember) -> tuple[int, int]:
    """Return width and height of the upright image, without decoding its pixels."""
    if member.size > MAX_IMAGE_BYTES:
        raise RecordError("the image is too large", f"an image larger than {MAX_IMAGE_BYTES} bytes")
    try:
        width, height = image_size(member.content)
    except DataError as error:
        fault = "the image can't be read" if error.fault == UNDECODABLE else error.fault
        raise RecordError(str(error), fault) from error
    if max(width, height) > _MAX_SIDE:
        raise RecordError(f"{width}x{height}", f"an image side over {_MAX_SIDE} pixels")
    return width, height
