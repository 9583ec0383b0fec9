"""Members of a tar of any origin, grouped into samples by WebDataset's convention.

The tar is read as a stream, so a remote shard is read while it downloads. Nothing is extracted. A
hostile tar ends in one `DataError` in bounded time and memory.
"""

import dataclasses
import hashlib
import re
import tarfile
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Protocol, Self

from core.errors import DataError
from datamodules.shards.index import BLOCK_BYTES

IMAGE_EXTENSIONS = ("webp", "jpg", "jpeg", "png")
MEMBER_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""WebDataset's convention: the key ends at the first dot of the file name."""
MAX_IMAGE_BYTES = 256 << 20
BUFFER_BYTES = 1 << 16  # small, because tarfile copies the rest of its buffer on every read

_MAX_EXTENSION_BYTES = 1 << 20
"""Largest extended header (a long name, PAX records), which tarfile reads into memory."""
_EXTENDED_HEADERS = frozenset(
    {
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    }
)
_IS_UNUSUAL = re.compile(r"(?:^|/)(?:[._]|PaxHeader|[^./]*$)")
"""Part of a name to which one of the rules below may apply; most names have none."""
_META_NAME = re.compile(r"__[^/]*__")
_HEADER_NAME = re.compile(r"PaxHeaders?(?:\.[^/]+)?")
"""Folder into which old programs extract the extended headers of a tar."""
_MACOS_PREFIX = "._"
_ESCAPED = re.compile("[\udc80-\udcff]")
"""Bytes of a name that are not UTF-8, as tarfile escapes them."""


class ByteStream(Protocol):
    """A sequential stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; b"" at the end."""


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


class HashingStream:
    """Hashes a stream while it is read, and verifies the end of the tar."""

    def __init__(self, stream: ByteStream) -> None:
        self.position = 0
        self._stream, self._digest = stream, hashlib.sha256()
        self._last: deque[bytes] = deque(maxlen=2)
        self._has_ended = False

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end of the stream.

        Raises:
            tarfile.ReadError: If the end was already reached: tarfile would otherwise read nothing,
                block by block, up to the size that a header claims.
        """
        if self._has_ended:
            raise tarfile.ReadError(f"it ends at byte {self.position}, inside a member")
        pieces, missing = list[bytes](), size
        while missing and (piece := self._stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        content = b"".join(pieces)
        self._has_ended = not content
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
        while not self._has_ended and (content := self.read(BUFFER_BYTES)):
            num_zeros, is_zero = num_zeros + len(content), is_zero and not any(content)
        if not is_zero or num_zeros < BLOCK_BYTES:
            raise tarfile.ReadError(f"no end-of-archive marker at byte {end}")

    def hexdigest(self) -> str:
        """Return the hexadecimal SHA-256 of everything that was read."""
        return self._digest.hexdigest()


class _BoundedTarInfo(tarfile.TarInfo):
    """Header of a member whose extended headers have a limited size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse a header block."""
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENDED_HEADERS and not 0 <= info.size <= _MAX_EXTENSION_BYTES:
            raise tarfile.ReadError(f"an extended header claims {info.size:,} bytes")
        return info


def group_members(
    source: HashingStream, name: str, wanted: set[str], ignored: Counter[str]
) -> Iterator[TarSample]:
    """Group the members of a tar into samples.

    Args:
        source: The bytes of the tar.
        name: Path or URL, for error messages.
        wanted: Extensions of the members whose content is read.
        ignored: Receives the number of members that belong to no sample, by reason.

    Raises:
        DataError: If the stream is not a complete, uncompressed tar.
    """
    current: TarSample | None = None
    try:
        with _open_tar(source) as tar:
            for member in tar:
                if member.isdir():
                    continue
                if member.isreg() and (reason := _reason_to_ignore(member.name)):
                    ignored[reason] += 1
                    continue
                key, extension, problem = _parse_member(member)
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
    # Besides its own errors, tarfile raises these for headers that were forged or damaged.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        reason = "too many chained headers" if isinstance(error, RecursionError) else str(error)
        raise DataError(
            f"{name} is not a complete tar ({reason}); fetch or prepare it again, uncompressed"
        ) from error


def _open_tar(source: HashingStream) -> tarfile.TarFile:
    stream: Any = source
    return tarfile.open(fileobj=stream, mode="r|", bufsize=BUFFER_BYTES, tarinfo=_BoundedTarInfo)


def _read_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the content of a regular member, at whose beginning the stream is."""
    if member.size > MAX_IMAGE_BYTES or tar.fileobj is None:
        return b""
    content = bytes(tar.fileobj.read(member.size))  # extractfile() would copy it several times
    if len(content) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _reason_to_ignore(name: str) -> str:
    """Return why a member belongs to no sample, or "" if it does.

    The rules are those of webdataset, which skips `__NAME__` and names without an extension.
    """
    if _IS_UNUSUAL.search(name) is None:
        return ""
    parts = name.split("/")
    if parts[-1].startswith(_MACOS_PREFIX):
        return "metadata of macOS (._NAME)"
    if any(map(_META_NAME.fullmatch, parts)):
        return "metadata (__NAME__)"
    if any(map(_HEADER_NAME.fullmatch, parts[:-1])):
        return "extended headers (PaxHeader)"
    if any(part.startswith(".") and part.strip(".") for part in parts):
        return "hidden files"
    return "" if "." in parts[-1] else "files without an extension"


def _parse_member(member: tarfile.TarInfo) -> tuple[str, str, str]:
    """Return key, extension, and the problem with the member, or "" if there is none."""
    if not member.isreg() or member.issparse():
        return member.name, "", "a link or special member"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return member.name, "", "a name that points outside its folder"
    match = MEMBER_NAME.fullmatch(member.name)
    if match is None:
        return member.name, "", "a name without a key"
    if not match[1].isascii() and _ESCAPED.search(match[1]):
        return match[1], "", "a name that is not UTF-8"
    return match[1], match[2].lower(), ""
