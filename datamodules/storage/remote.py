"""Byte ranges of files that lie anywhere fsspec reaches, with patience.

Kept apart from the shard cache, which knows disks and locks but nothing of networks.
"""

import asyncio
import dataclasses
import errno
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from core.errors import ConfigError, IrudimenError
from core.process.log import get_logger
from core.retry import backoff_delays, call_with_retries

_LOG = get_logger(__name__)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429})
_STREAM_BYTES = 8 << 20
_CLIENT_ERRORS = range(400, 500)

_Result = TypeVar("_Result")


class StorageError(IrudimenError, OSError):
    """A file that storage did not give, after all retries.

    An OSError and no DataError on purpose: it must end the run. A DataError leaves one sample out
    of its batch, and a flaky store must not change the stream.
    """


class ShortReadError(OSError):
    """Storage gave fewer bytes than were asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RetryConfig:
    """How patient to be with storage."""

    attempts: int = 6
    """Tries of one request before it is an error."""
    first_delay_s: float = 0.5
    """Wait before the second try; doubled before every further one."""
    max_delay_s: float = 30.0
    """No wait is longer."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.attempts < 1:
            raise ConfigError(f"attempts={self.attempts}, expected at least 1")
        if not 0 <= self.first_delay_s <= self.max_delay_s:
            raise ConfigError(
                f"first_delay_s={self.first_delay_s}, max_delay_s={self.max_delay_s}, expected "
                "0 <= first_delay_s <= max_delay_s"
            )

    def delays_s(self) -> Iterator[float]:
        """Yield the delay before each retry."""
        return backoff_delays(self.attempts - 1, first_s=self.first_delay_s, max_s=self.max_delay_s)


def is_url(path: str) -> bool:
    """Whether a shard's path names a store (`s3://...`) and not a file beside its manifest."""
    return _SCHEME.match(path) is not None


def local_file(path: str) -> Path | None:
    """The file that a `file://` URL names; None for any other path."""
    return Path(path.removeprefix("file://")) if path.startswith("file://") else None


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path inside it.

    Asked for at every use: fsspec keeps one per process and thread, so forked workers are safe.

    Raises:
        ConfigError: an unknown scheme, or one whose library isn't installed.
    """
    match = _SCHEME.match(url)
    if match is None or "::" in url:
        raise ConfigError(f"'{shown(url)}' is no plain URL; write scheme://place, without '::'")
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{shown(url)}: this scheme can't be read here ({error}); "
            "`pip install irudimen[remote]` has S3, fsspec's documentation lists the others"
        ) from error


def file_info(url: str, retry: RetryConfig) -> dict[str, Any]:
    """What storage tells about a file; "size" is always there.

    Raises:
        StorageError: no such file, no size, or no answer.
    """

    def ask() -> dict[str, Any]:
        system, path = filesystem(url)
        return dict(system.info(path))

    info = with_retries(ask, f"asking for the size of {shown(url)}", retry)
    if not isinstance(info.get("size"), int):
        raise StorageError(f"{shown(url)}: storage does not tell its size; use one that does")
    return info


def read_range(url: str, start: int, stop: int, retry: RetryConfig) -> bytes:
    """The bytes [start, stop) of a file, all of them.

    Raises:
        StorageError: storage did not give them, several times over.
    """

    def ask() -> bytes:
        system, path = filesystem(url)
        content = bytes(system.cat_file(path, start=start, end=stop))
        # A plain server without ranges sends the whole file.
        content = content[start:stop] if len(content) > stop - start else content
        if len(content) < stop - start:
            raise ShortReadError(f"{stop - start} bytes expected, {len(content)} came")
        return content

    return with_retries(ask, f"reading bytes {start}-{stop} of {shown(url)}", retry)


class RangeStream:
    """A remote file from front to end, a range at a time."""

    def __init__(self, url: str, num_bytes: int, retry: RetryConfig) -> None:
        self._url, self._num_bytes, self._retry = url, num_bytes, retry
        self._fetched = 0
        self._buffer = io.BytesIO()

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; b"" at the end.

        Raises:
            StorageError: as `read_range`.
        """
        if not (content := self._buffer.read(size)) and self._fetched < self._num_bytes:
            stop = min(self._num_bytes, self._fetched + _STREAM_BYTES)
            self._buffer = io.BytesIO(read_range(self._url, self._fetched, stop, self._retry))
            self._fetched = stop
            content = self._buffer.read(size)
        return content


def with_retries(ask: Callable[[], _Result], what: str, retry: RetryConfig) -> _Result:
    """Call until it works, waiting longer every time.

    Raises:
        StorageError: the last error, or the first that another try can't mend.
    """
    num_failed = 0

    def log_retry(error: Exception, delay_s: float) -> None:
        nonlocal num_failed
        num_failed += 1
        _LOG.warning(
            "%s: %s; try %d in %.1f s", what, _format_cause(error), num_failed + 1, delay_s
        )

    try:
        return call_with_retries(
            ask, delays_s=retry.delays_s(), is_transient=_is_transient, on_retry=log_retry
        )
    except IrudimenError:
        raise
    except Exception as error:  # each store's library has errors of its own
        cause = _format_cause(error)
        if not _is_transient(error):
            raise StorageError(f"{what}: {cause}; correct the URL or access") from error
        raise StorageError(
            f"{what}: {cause}, {retry.attempts} times over; try again when storage answers"
        ) from error


def shown(url: str) -> str:
    """A URL as messages may show it: without a password or a signed query; a path as it is."""
    if not is_url(url):
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?...' if parts.query else ''}"


def _is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status in _CLIENT_ERRORS:
        return status in _WORTH_ANOTHER_TRY
    if isinstance(error, IrudimenError | FileNotFoundError | PermissionError | IsADirectoryError):
        return False
    if isinstance(error, TypeError | AttributeError | NotImplementedError | AssertionError):
        return False
    return not (isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP))


def _format_cause(error: Exception) -> str:
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return f"no answer in time ({type(error).__name__})"
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"the server answered {status}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
