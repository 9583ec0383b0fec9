"""Reading byte ranges of remote files through fsspec, with retries.

Separate from the shard cache, which handles disks and locks but no networks.
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
_TRANSIENT_CLIENT_ERRORS = frozenset({408, 425, 429})
_STREAM_BYTES = 8 << 20
_CLIENT_ERRORS = range(400, 500)

_Result = TypeVar("_Result")


class StorageError(IrudimenError, OSError):
    """A file that could not be read from storage after all retries.

    This is an OSError and not a DataError, because it must abort the run. A DataError skips one
    sample, and an unreliable store must not change the stream.
    """


class ShortReadError(OSError):
    """Storage returned fewer bytes than requested."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RetryConfig:
    """Retry policy of storage requests."""

    attempts: int = 6
    """Number of attempts per request."""
    first_delay_s: float = 0.5
    """Delay before the first retry; doubled before every further one."""
    max_delay_s: float = 30.0
    """Maximum delay between attempts."""

    def __post_init__(self) -> None:
        """Validate the values."""
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
    """Return whether a path is a URL (`s3://...`) and not relative to its manifest."""
    return _SCHEME.match(path) is not None


def local_file(path: str) -> Path | None:
    """Return the path of a `file://` URL; None for any other path."""
    return Path(path.removeprefix("file://")) if path.startswith("file://") else None


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path inside it.

    Call it for every use: fsspec caches one per process and thread, so forked workers are safe.

    Raises:
        ConfigError: If the scheme is unknown or its library is not installed.
    """
    match = _SCHEME.match(url)
    if match is None or "::" in url:
        raise ConfigError(
            f"'{redact_url(url)}' is not a plain URL; write scheme://path, without '::'"
        )
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{redact_url(url)}: this scheme is not supported here ({error}); "
            "`pip install irudimen[remote]` adds S3, see fsspec's documentation for others"
        ) from error


def file_info(url: str, retry: RetryConfig) -> dict[str, Any]:
    """Return the metadata of a file from storage, including "size".

    Raises:
        StorageError: If the file does not exist, has no size, or storage does not respond.
    """

    def request() -> dict[str, Any]:
        system, path = filesystem(url)
        return dict(system.info(path))

    info = with_retries(request, f"reading the size of {redact_url(url)}", retry)
    if not isinstance(info.get("size"), int):
        raise StorageError(
            f"{redact_url(url)}: storage does not report its size; use a store that does"
        )
    return info


def read_range(url: str, start: int, stop: int, retry: RetryConfig) -> bytes:
    """Read the bytes [start, stop) of a file, all of them.

    Raises:
        StorageError: If they can't be read after all retries.
    """

    def request() -> bytes:
        system, path = filesystem(url)
        content = bytes(system.cat_file(path, start=start, end=stop))
        # A server without support for ranges sends the whole file.
        content = content[start:stop] if len(content) > stop - start else content
        if len(content) < stop - start:
            raise ShortReadError(f"expected {stop - start} bytes, got {len(content)}")
        return content

    return with_retries(request, f"reading bytes {start}-{stop} of {redact_url(url)}", retry)


class RangeStream:
    """Sequential stream of a remote file, fetched in ranges."""

    def __init__(self, url: str, num_bytes: int, retry: RetryConfig) -> None:
        self._url, self._num_bytes, self._retry = url, num_bytes, retry
        self._fetched = 0
        self._buffer = io.BytesIO()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; b"" at the end.

        Raises:
            StorageError: If they can't be read after all retries.
        """
        if not (content := self._buffer.read(size)) and self._fetched < self._num_bytes:
            stop = min(self._num_bytes, self._fetched + _STREAM_BYTES)
            self._buffer = io.BytesIO(read_range(self._url, self._fetched, stop, self._retry))
            self._fetched = stop
            content = self._buffer.read(size)
        return content


def with_retries(request: Callable[[], _Result], action: str, retry: RetryConfig) -> _Result:
    """Call a storage request with exponential backoff.

    Args:
        request: The request.
        action: Description of the request for messages.
        retry: Retry policy.

    Raises:
        StorageError: If an error is permanent, or if all attempts fail.
    """
    num_failed = 0

    def log_retry(error: Exception, delay_s: float) -> None:
        nonlocal num_failed
        num_failed += 1
        _LOG.warning(
            "%s: %s; attempt %d in %.1f s", action, _format_cause(error), num_failed + 1, delay_s
        )

    try:
        return call_with_retries(
            request, delays_s=retry.delays_s(), is_transient=_is_transient, on_retry=log_retry
        )
    except IrudimenError:
        raise
    except Exception as error:  # every store's library has its own error types
        cause = _format_cause(error)
        if not _is_transient(error):
            raise StorageError(f"{action}: {cause}; correct the URL or the credentials") from error
        raise StorageError(
            f"{action}: {cause}, after {retry.attempts} attempts; rerun when storage responds"
        ) from error


def redact_url(url: str) -> str:
    """Return a URL without password and signed query, for messages; paths are unchanged."""
    if not is_url(url):
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?...' if parts.query else ''}"


def _is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status in _CLIENT_ERRORS:
        return status in _TRANSIENT_CLIENT_ERRORS
    if isinstance(error, IrudimenError | FileNotFoundError | PermissionError | IsADirectoryError):
        return False
    if isinstance(error, TypeError | AttributeError | NotImplementedError | AssertionError):
        return False
    return not (isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP))


def _format_cause(error: Exception) -> str:
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return f"timed out ({type(error).__name__})"
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"the server returned status {status}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
