"""Download of images from the web, with limits per host and without access to private networks.

img2dataset is the usual tool for this, but it pins versions of webdataset and pandas that this
project cannot use, and it requests private addresses. This is a thin layer over aiohttp instead.
"""

import asyncio
import dataclasses
import ipaddress
import socket
from collections.abc import Callable, Sequence
from enum import StrEnum
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from core.errors import ConfigError, DataError
from core.io.files import sha256_bytes
from core.io.images import decode_image
from core.retry import backoff_delays

_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_GONE_STATUSES = (404, 410)
_OK, _BUSY = 200, 429
_BLOCKED_STATUSES = (401, 402, 403, 407, 451)
_RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_MAX_WAIT_S = 60.0
_OPT_OUT_TAGS = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
_BODY_CHUNK_BYTES = 1 << 16


class Outcome(StrEnum):
    """Outcome of a download."""

    FETCHED = "fetched"
    GONE = "gone"
    BLOCKED = "blocked"
    PRIVATE = "private address"
    UNREACHABLE = "unreachable"
    TOO_LARGE = "too large"
    NOT_AN_IMAGE = "not an image"
    HASH_DIFFERS = "hash differs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Settings of the image download."""

    concurrency: int = 64
    """Concurrent requests per task."""
    per_host: int = 4
    """Concurrent requests to one host per task."""
    timeout_s: float = 20.0
    """Time limit of one attempt, from the connection to the last byte."""
    retries: int = 2
    """Retries after a timeout, a lost connection or a busy host."""
    wait_s: float = 1.0
    """Delay before the first retry, doubled each time. Retry-After is honoured up to a minute."""
    max_bytes: int = 20 << 20
    """Maximum size of an image."""
    allow_private: bool = False
    """Allow loopback and private networks. URLs in a dataset are untrusted input, so keep it off
    unless you run the host."""
    respect_opt_out: bool = True
    """Leave out images whose host marks them noai, noimageai or noindex (X-Robots-Tag)."""
    user_agent: str = "irudimen-data-prep (research; images of published data sets)"

    def __post_init__(self) -> None:
        """Validate the limits."""
        if min(self.concurrency, self.per_host, self.max_bytes) < 1 or self.retries < 0:
            raise ConfigError(
                f"fetch: concurrency {self.concurrency}, per_host {self.per_host}, max_bytes "
                f"{self.max_bytes}, retries {self.retries}; set the first three to at least 1, "
                "retries to at least 0"
            )
        if min(self.timeout_s, self.wait_s) <= 0:
            raise ConfigError(
                f"fetch: timeout_s {self.timeout_s:g}, wait_s {self.wait_s:g}; set both above 0"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A URL and the sha256 that its dataset publishes ("" for none)."""

    url: str
    sha256: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """Result of a download."""

    wanted: Wanted
    outcome: Outcome
    detail: str = ""
    content: bytes = b""


class _FailedError(Exception):
    def __init__(self, outcome: Outcome, detail: str, *, again_in: float | None = None) -> None:
        super().__init__(detail)
        self.outcome, self.detail, self.again_in = outcome, detail, again_in


def fetch_all(
    wanted: Sequence[Wanted], config: FetchConfig, on_result: Callable[[Fetched], None]
) -> None:
    """Download all URLs concurrently; `on_result` receives each result as it arrives."""
    asyncio.run(_fetch_all(wanted, config, on_result))


async def _fetch_all(
    wanted: Sequence[Wanted], config: FetchConfig, on_result: Callable[[Fetched], None]
) -> None:
    queue: asyncio.Queue[Wanted] = asyncio.Queue()
    for one in wanted:
        queue.put_nowait(one)
    connector = aiohttp.TCPConnector(
        limit=config.concurrency,
        limit_per_host=config.per_host,
        resolver=None if config.allow_private else _PublicResolver(),
    )
    timeout = aiohttp.ClientTimeout(total=config.timeout_s)
    headers = {"User-Agent": config.user_agent, "Accept-Encoding": "identity"}
    # No decompression, so that a small response cannot expand into a large one.
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=headers,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:

        async def work() -> None:
            while not queue.empty():
                on_result(await _fetch(session, queue.get_nowait(), config))

        await asyncio.gather(*(work() for _ in range(min(config.concurrency, len(wanted)))))


async def _fetch(session: aiohttp.ClientSession, wanted: Wanted, config: FetchConfig) -> Fetched:
    for delay_s in (*backoff_delays(config.retries, first_s=config.wait_s), None):
        try:
            content = await _follow(session, wanted.url, config)
            await asyncio.to_thread(_check_image, content, wanted)
        except _FailedError as failed:
            if failed.again_in is None or delay_s is None:
                return Fetched(wanted=wanted, outcome=failed.outcome, detail=failed.detail)
            await asyncio.sleep(min(_MAX_WAIT_S, max(delay_s, failed.again_in)))
        else:
            return Fetched(wanted=wanted, outcome=Outcome.FETCHED, content=content)
    raise AssertionError("unreachable")


async def _follow(session: aiohttp.ClientSession, url: str, config: FetchConfig) -> bytes:
    for _ in range(_MAX_REDIRECTS + 1):
        _check_address(url, config)
        try:
            async with session.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECT_STATUSES:
                    return await _read_body(response, config)
                url = urljoin(url, response.headers.get("Location", ""))
        except TimeoutError as error:
            raise _FailedError(Outcome.UNREACHABLE, "time-out", again_in=0) from error
        except _PrivateAddressError as error:
            raise _FailedError(Outcome.PRIVATE, str(error)) from error
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, _PrivateAddressError):
                raise _FailedError(Outcome.PRIVATE, str(error.os_error)) from error
            raise _FailedError(Outcome.GONE, "no such host") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            detail = f"{type(error).__name__}: {error}"
            raise _FailedError(Outcome.UNREACHABLE, detail[:200], again_in=0) from error
    raise _FailedError(Outcome.UNREACHABLE, f"more than {_MAX_REDIRECTS} redirects")


def _check_address(url: str, config: FetchConfig) -> None:
    """Check the scheme, and the host if it is an IP address; names are checked when resolved."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise _FailedError(Outcome.UNREACHABLE, f"invalid address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise _FailedError(Outcome.UNREACHABLE, "not an http(s) address")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not config.allow_private and not _is_public(address):
        raise _FailedError(Outcome.PRIVATE, str(address))


async def _read_body(response: aiohttp.ClientResponse, config: FetchConfig) -> bytes:
    status = response.status
    if status in _GONE_STATUSES:
        raise _FailedError(Outcome.GONE, f"HTTP {status}")
    if status in _BLOCKED_STATUSES:
        raise _FailedError(Outcome.BLOCKED, f"HTTP {status}")
    if status in _RETRIED_STATUSES:
        again = _parse_retry_after(response.headers.get("Retry-After", ""))
        outcome = Outcome.BLOCKED if status == _BUSY else Outcome.UNREACHABLE
        raise _FailedError(outcome, f"HTTP {status}", again_in=again)
    if status != _OK:
        raise _FailedError(Outcome.UNREACHABLE, f"HTTP {status}")
    robots = response.headers.get("X-Robots-Tag", "").lower().replace(",", " ").split()
    if config.respect_opt_out and _OPT_OUT_TAGS.intersection(robots):
        raise _FailedError(Outcome.BLOCKED, f"X-Robots-Tag: {' '.join(robots)[:80]}")
    if (response.content_length or 0) > config.max_bytes:
        raise _FailedError(Outcome.TOO_LARGE, f"{response.content_length} bytes")
    content = bytearray()
    async for chunk in response.content.iter_chunked(_BODY_CHUNK_BYTES):
        content += chunk
        if len(content) > config.max_bytes:
            raise _FailedError(Outcome.TOO_LARGE, f"more than {config.max_bytes} bytes")
    return bytes(content)


def _check_image(content: bytes, wanted: Wanted) -> None:
    try:
        decode_image(content)
    except DataError as error:
        raise _FailedError(Outcome.NOT_AN_IMAGE, str(error)[:200]) from error
    if wanted.sha256 and sha256_bytes(content) != wanted.sha256.lower():
        raise _FailedError(Outcome.HASH_DIFFERS, sha256_bytes(content))


def _parse_retry_after(text: str) -> float:
    """Return the seconds of a Retry-After header; the rare dates count as 0."""
    return float(text) if text.isdecimal() else 0.0


class _PrivateAddressError(OSError):
    pass


class _PublicResolver(AbstractResolver):
    """Resolver that rejects private addresses, so the checked address is the one connected to."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for one in found:
            if not _is_public(ipaddress.ip_address(one["host"].partition("%")[0])):
                raise _PrivateAddressError(f"{host} resolves to {one['host']}")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast
