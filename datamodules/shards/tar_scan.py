"""One pass over a tar of any origin: its samples, its checksum, its compact index.

Reads a stream from front to end, so that a remote shard is scanned as it comes in. Nothing is
ever extracted, and what can't be used is counted by reason. Kept apart from `shards`, whose own
scan is strict: it takes nothing but what this house writes.
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
"""WebDataset's rule: the key ends at the first dot of the file name."""

_GUESSES = ("", ".txt", "caption", "text")
_GUESS_SAMPLES = 100
_BUFFER_BYTES = 1 << 16  # tarfile copies what is left of a buffer at every read
_MAX_RECORD_BYTES = 16 << 20
_MAX_IMAGE_BYTES = 256 << 20
_MAX_SIDE = 2**16 - 1
_MAX_KEY_BYTES = 255


class Stream(Protocol):
    """Bytes from front to end."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; b"" at the end."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScanRules:
    """What makes a sample usable."""

    record: str
    """Where its record lies (`records`)."""
    has_image: bool
    """Whether it needs an image."""
    max_pixels: int = 2**26
    """An image that would take more pixels when decoded is refused (67 million by default)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScanResult:
    """What a scan found."""

    index: ShardIndex
    """Of the usable samples; may be empty."""
    sha256: str
    num_bytes: int
    unusable: Counter[str]
    """Samples by what is wrong with them."""
    examples: dict[str, str]
    """The first sample of each reason."""
    ignored: Counter[str]
    """Members by extension that no sample needs."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """One member of a sample; its content only where it was wanted."""

    offset: int
    size: int
    content: bytes


@dataclasses.dataclass(kw_only=True, slots=True)
class TarSample:
    """Consecutive members with one key."""

    key: str
    members: dict[str, TarMember] = dataclasses.field(default_factory=dict)
    """By extension, lower case."""
    problem: str = ""
    """Why it can't be used, as far as the tar tells."""


OnTurns = Callable[[str, tuple[Turn, ...]], None]
"""Takes the key and the turns of a usable sample."""


def scan_tar(
    stream: Stream, name: str, rules: ScanRules, on_turns: OnTurns | None = None
) -> ScanResult:
    """Read a tar to its end.

    Args:
        stream: The tar's bytes.
        name: Path or URL, for messages.
        rules: What makes a sample usable.
        on_turns: Called with every usable sample, in the order of the index.

    Raises:
        DataError: not a complete, uncompressed tar.
    """
    source, member = _Hashing(stream), member_of(rules.record)
    rows, keys, seen = list[tuple[int, int, int, int, int, int]](), list[str](), set[str]()
    unusable, ignored, examples = Counter[str](), Counter[str](), dict[str, str]()
    images = IMAGE_EXTENSIONS if rules.has_image else ()
    for sample in _samples(source, name, {member, *images}):
        ignored.update(kind for kind in sample.members if kind not in (member, *images))
        try:
            if sample.key in seen:
                raise RecordError(f"'{sample.key}' is there twice", "the key appears twice")
            seen.add(sample.key)
            row, turns = _row(sample, member, rules)
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


def guess_record(stream: Stream, name: str, *, has_image: bool) -> str:
    """Where the records of a foreign tar lie: the first rule that its first samples fit.

    The rules: JSON with `messages`; a `.txt` member; JSON with a string `caption`; JSON with a
    string `text`.

    Raises:
        DataError: none fits; says what there is.
    """
    found: Counter[str] = Counter()
    samples = _samples(_Hashing(stream), name, {JSON_MEMBER, "txt"})
    for _, sample in zip(range(_GUESS_SAMPLES), samples, strict=False):
        found.update(f".{kind}" for kind in sample.members)
        for record in _GUESSES:
            member = sample.members.get(member_of(record))
            try:
                if member is not None:
                    parse_record(member.content, record, name, has_image=has_image)
                    return record
            except RecordError:
                continue
    there = ", ".join(f"{kind} ({count})" for kind, count in found.most_common()) or "nothing"
    raise DataError(
        f"{name}: no text found in its first samples; members there: {there}. Name the place with "
        "--record: .EXTENSION of a text member, or a dotted path inside the JSON"
    )


def _row(
    sample: TarSample, member: str, rules: ScanRules
) -> tuple[tuple[int, int, int, int, int, int], tuple[Turn, ...]]:
    """A usable sample's row in the index and its turns, or a RecordError."""
    if sample.problem:
        raise RecordError(sample.problem, sample.problem)
    if len(sample.key.encode("utf-8")) > _MAX_KEY_BYTES:
        raise RecordError("a long key", f"a key over {_MAX_KEY_BYTES} bytes")
    if (record := sample.members.get(member)) is None:
        raise RecordError(f"no .{member}", f"no .{member} member")
    if record.size > _MAX_RECORD_BYTES:
        raise RecordError("large", f"a .{member} member over {_MAX_RECORD_BYTES} bytes")
    _, turns = parse_record(record.content, rules.record, sample.key, has_image=rules.has_image)
    place = (record.offset // BLOCK_BYTES, record.size)
    if not rules.has_image:
        return (*place, 0, 0, 0, 0), turns
    images = [sample.members[kind] for kind in IMAGE_EXTENSIONS if kind in sample.members]
    if len(images) != 1:
        reason = "two images" if images else "no image"
        raise RecordError(reason, reason)
    width, height = _image_size(images[0], rules.max_pixels)
    image = (images[0].offset // BLOCK_BYTES, images[0].size, width, height)
    return (*place, *image), turns


def _image_size(member: TarMember, max_pixels: int) -> tuple[int, int]:
    """Width and height from the image's header; its pixels are not decoded."""
    if member.size > _MAX_IMAGE_BYTES:
        raise RecordError("large", f"an image over {_MAX_IMAGE_BYTES} bytes")
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


def _samples(source: "_Hashing", name: str, wanted: set[str]) -> Iterator[TarSample]:
    """Group the members of a tar; the contents of wanted extensions come along."""
    current: TarSample | None = None
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=_BUFFER_BYTES) as tar:  # type: ignore[call-overload]
            for member in tar:
                if member.isdir():
                    continue
                key, extension, problem = _name(member)
                if current is None or current.key != key:
                    if current is not None:
                        yield current
                    current = TarSample(key=key)
                if extension in current.members:
                    problem = f"two .{extension} members"
                current.problem = current.problem or problem
                if not problem:
                    is_wanted = extension in wanted
                    content = _content(tar, member) if is_wanted else b""
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


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _MAX_IMAGE_BYTES or (opened := tar.extractfile(member)) is None:
        return b""
    return opened.read()


def _name(member: tarfile.TarInfo) -> tuple[str, str, str]:
    """Key, extension, and what is wrong with the name."""
    if not member.isreg() or member.issparse():
        return member.name, "", "a link or special member"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return member.name, "", "a name that leaves its folder"
    match = MEMBER_NAME.fullmatch(member.name)
    if match is None:
        return member.name, "", "a name without an extension"
    if any("\udc80" <= letter <= "\udcff" for letter in match[1]):  # tarfile's escaped bytes
        return match[1], "", "a name that is not UTF-8"
    return match[1], match[2].lower(), ""


class _Hashing:
    """A stream that hashes what goes through, and remembers its end."""

    def __init__(self, stream: Stream) -> None:
        self.position = 0
        self._stream, self._digest = stream, hashlib.sha256()
        self._last: deque[bytes] = deque(maxlen=2)

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
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
        """Read to the end; behind the last member nothing but zeros may come.

        A tar that was cut between two members, or that goes on with garbage, would otherwise read
        without complaint.
        """
        behind = self.position - end
        rest = b"".join(self._last)[-behind:] if behind > 0 else b""
        num_zeros, is_zero = len(rest), not any(rest)
        while content := self.read(_BUFFER_BYTES):
            num_zeros, is_zero = num_zeros + len(content), is_zero and not any(content)
        if not is_zero or num_zeros < BLOCK_BYTES:
            raise tarfile.ReadError(f"no end mark at byte {end}")

    def hexdigest(self) -> str:
        """Hexadecimal sha256 of all that was read."""
        return self._digest.hexdigest()
