"""Single-pass scan of a tar of any origin: its samples, its checksum and its compact index.

The scan reads a stream sequentially, so a remote shard is scanned while it downloads. Nothing is
extracted, and unusable samples are counted by reason. Separate from `reader`, whose scan is strict
and accepts only tars that this project wrote.
"""

import dataclasses
import hashlib
import io
import re
import tarfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Protocol

from PIL import Image

from core.errors import DataError
from core.samples import Turn
from datamodules.shards.index import BLOCK_BYTES, IndexHeader, ShardIndex, compact_index
from datamodules.shards.records import JSON_MEMBER, RecordError, member_of, parse_record

IMAGE_EXTENSIONS = ("webp", "jpg", "jpeg", "png")
MEMBER_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""WebDataset's convention: the key ends at the first dot of the file name."""

_RECORD_CANDIDATES = ("", ".txt", "caption", "text")
_MAX_INSPECTED_SAMPLES = 100
_BUFFER_BYTES = 1 << 16  # small, because tarfile copies the rest of its buffer on every read
_MAX_RECORD_BYTES = 16 << 20
_MAX_IMAGE_BYTES = 256 << 20
_MAX_SIDE = 2**16 - 1
_MAX_KEY_BYTES = 255


class ByteStream(Protocol):
    """A sequential stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; b"" at the end."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScanRules:
    """Requirements that a usable sample meets."""

    record: str
    """Location of the record (see `records`)."""
    has_image: bool
    """Whether samples need an image."""
    max_pixels: int = 2**26
    """Maximum number of pixels of a decoded image (67 million by default)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScanResult:
    """Result of scanning a tar."""

    index: ShardIndex
    """Index of the usable samples; may be empty."""
    sha256: str
    num_bytes: int
    unusable: Counter[str]
    """Number of unusable samples by reason."""
    examples: dict[str, str]
    """The first unusable sample of each reason."""
    ignored: Counter[str]
    """Number of members that no sample needs, by extension."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """A member of a sample; its content is read only if the scan needs it."""

    offset: int
    size: int
    content: bytes


@dataclasses.dataclass(kw_only=True, slots=True)
class TarSample:
    """Consecutive members with the same key."""

    key: str
    members: dict[str, TarMember] = dataclasses.field(default_factory=dict)
    """Members by lower-case extension."""
    problem: str = ""
    """Reason why the sample is unusable, if the tar headers show one."""


OnTurns = Callable[[str, tuple[Turn, ...]], None]
"""Receives the key and the turns of a usable sample."""


def scan_tar(
    stream: ByteStream, name: str, rules: ScanRules, on_turns: OnTurns | None = None
) -> ScanResult:
    """Scan a tar to its end.

    Args:
        stream: The bytes of the tar.
        name: Path or URL, for error messages.
        rules: Requirements that a usable sample meets.
        on_turns: Called with every usable sample, in the order of the index.

    Raises:
        DataError: If the stream is not a complete, uncompressed tar.
    """
    source, member = _HashingStream(stream), member_of(rules.record)
    rows, keys, seen = list[tuple[int, int, int, int, int, int]](), list[str](), set[str]()
    unusable, ignored, examples = Counter[str](), Counter[str](), dict[str, str]()
    images = IMAGE_EXTENSIONS if rules.has_image else ()
    for sample in _group_members(source, name, {member, *images}):
        ignored.update(kind for kind in sample.members if kind not in (member, *images))
        try:
            if sample.key in seen:
                raise RecordError(f"'{sample.key}' appears twice", "the key appears twice")
            seen.add(sample.key)
            row, turns = _parse_sample(sample, member, rules)
        except RecordError as error:
            unusable[error.fault] += 1
            examples.setdefault(error.fault, f"{name}: {sample.key}")
        else:
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


def guess_record(stream: ByteStream, name: str, *, has_image: bool) -> str:
    """Detect the location of the records from the first samples of a tar.

    Candidates, in this order: JSON with `messages`; a `.txt` member; JSON with a string `caption`;
    JSON with a string `text`.

    Raises:
        DataError: If no candidate matches; the message lists the members.
    """
    found: Counter[str] = Counter()
    samples = _group_members(_HashingStream(stream), name, {JSON_MEMBER, "txt"})
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
    members = ", ".join(f"{kind} ({count})" for kind, count in found.most_common()) or "nothing"
    raise DataError(
        f"{name}: no text found in its first samples; their members are: {members}. Set --record "
        "to the .EXTENSION of a text member, or to a dotted path inside the JSON"
    )


def _parse_sample(
    sample: TarSample, member: str, rules: ScanRules
) -> tuple[tuple[int, int, int, int, int, int], tuple[Turn, ...]]:
    """Return the index row and the turns of a sample; raise RecordError if it is unusable."""
    if sample.problem:
        raise RecordError(sample.problem, sample.problem)
    if len(sample.key.encode("utf-8")) > _MAX_KEY_BYTES:
        raise RecordError("the key is too long", f"a key over {_MAX_KEY_BYTES} bytes")
    if (record := sample.members.get(member)) is None:
        raise RecordError(f"no .{member}", f"no .{member} member")
    if record.size > _MAX_RECORD_BYTES:
        raise RecordError(
            "the record is too large", f"a .{member} member over {_MAX_RECORD_BYTES} bytes"
        )
    _, turns = parse_record(record.content, rules.record, sample.key, has_image=rules.has_image)
    record_row = (record.offset // BLOCK_BYTES, record.size)
    if not rules.has_image:
        return (*record_row, 0, 0, 0, 0), turns
    images = [sample.members[kind] for kind in IMAGE_EXTENSIONS if kind in sample.members]
    if len(images) != 1:
        reason = "two images" if images else "no image"
        raise RecordError(reason, reason)
    width, height = _image_size(images[0], rules.max_pixels)
    image_row = (images[0].offset // BLOCK_BYTES, images[0].size, width, height)
    return (*record_row, *image_row), turns


def _image_size(member: TarMember, max_pixels: int) -> tuple[int, int]:
    """Return width and height from the image's header, without decoding its pixels."""
    if member.size > _MAX_IMAGE_BYTES:
        raise RecordError("the image is too large", f"an image over {_MAX_IMAGE_BYTES} bytes")
    try:
        with Image.open(io.BytesIO(member.content)) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise RecordError(str(error), f"an image over {max_pixels} pixels") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise RecordError(str(error), "the image can't be read") from error
    if width * height > max_pixels or max(width, height) > _MAX_SIDE:
        raise RecordError(f"{width}x{height}", f"an image over {max_pixels} pixels")
    return width, height


def _group_members(source: "_HashingStream", name: str, wanted: set[str]) -> Iterator[TarSample]:
    """Group the members of a tar into samples, with the contents of the wanted extensions."""
    current: TarSample | None = None
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=_BUFFER_BYTES) as tar:  # type: ignore[call-overload]
            for member in tar:
                if member.isdir():
                    continue
                key, extension, problem = _parse_member_name(member)
                if current is None or current.key != key:
                    if current is not None:
                        yield current
                    current = TarSample(key=key)
                if extension in current.members:
                    problem = f"two .{extension} members"
                current.problem = current.problem or problem
                if not problem:
                    is_wanted = extension in wanted
                    content = _read_content(tar, member) if is_wanted else b""
                    current.members[extension] = TarMember(
                        offset=member.offset_data, size=member.size, content=content
                    )
            if current is not None:
                yield current
            source.finish(tar.offset)
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise DataError(
            f"{name} is not a complete tar ({error}); fetch or prepare it again, uncompressed"
        ) from error


def _read_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _MAX_IMAGE_BYTES or (opened := tar.extractfile(member)) is None:
        return b""
    return opened.read()


def _parse_member_name(member: tarfile.TarInfo) -> tuple[str, str, str]:
    """Return key, extension, and the problem with the name, or "" if there is none."""
    if not member.isreg() or member.issparse():
        return member.name, "", "a link or special member"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return member.name, "", "a name that leaves its folder"
    match = MEMBER_NAME.fullmatch(member.name)
    if match is None:
        return member.name, "", "a name without an extension"
    if any("\udc80" <= letter <= "\udcff" for letter in match[1]):  # bytes that tarfile escaped
        return match[1], "", "a name that is not UTF-8"
    return match[1], match[2].lower(), ""


class _HashingStream:
    """Hashes a stream while it is read, and verifies the end of the tar."""

    def __init__(self, stream: ByteStream) -> None:
        self.position = 0
        self._stream, self._digest = stream, hashlib.sha256()
        self._last: deque[bytes] = deque(maxlen=2)

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end of the stream."""
        pieces, missing = list[bytes](), size
        while missing and (piece := self._stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        content = b"".join(pieces)
        self._digest.update(content)
        self.position += len(content)
        if content:
            self._last.append(content)
        return content

    def finish(self, end: int) -> None:
        """Read to the end and check that only zeros follow the last member.

        A tar that was truncated between two members, or that has trailing garbage, would otherwise
        read without an error.
        """
        behind = self.position - end
        rest = b"".join(self._last)[-behind:] if behind > 0 else b""
        num_zeros, is_zero = len(rest), not any(rest)
        while content := self.read(_BUFFER_BYTES):
            num_zeros, is_zero = num_zeros + len(content), is_zero and not any(content)
        if not is_zero or num_zeros < BLOCK_BYTES:
            raise tarfile.ReadError(f"no end mark at byte {end}")

    def hexdigest(self) -> str:
        """Return the hexadecimal SHA-256 of everything that was read."""
        return self._digest.hexdigest()
