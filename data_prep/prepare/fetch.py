"""Images from the web: polite, bounded, never inside the own network, every outcome named.

img2dataset does this job in many projects; it pins versions of webdataset and pandas that this
project can't use, and asks any address it is given. This is a thin layer over aiohttp instead.
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
from core.retry import backoff_delays
from models.towers.image_transform import decode_image

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_GONE = (404, 410)
_OK, _BUSY = 200, 429
_BLOCKED = (401, 402, 403, 407, 451)
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_MOST_WAIT_S = 60.0
_OPT_OUT = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
_CHUNK = 1 << 16


class Outcome(StrEnum):
    """What became of an address."""

    FETCHED = "fetched"
    GONE = "gone"
    BLOCKED = "blocked"
    PRIVATE = "private address"
    UNREACHABLE = "unreachable"
    TOO_LARGE = "too large"
    NOT_A_IMAGE = "not an image"
    HASH_DIFFERS = "hash differs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """How the web is asked."""

    concurrency: int = 64
    """Requests at a time, of one task."""
    per_host: int = 4
    """Requests at a time to one host, of one task."""
    timeout_s: float = 20.0
    """Of one try, from the connection to the last byte."""
    retries: int = 2
    """After a time-out, a lost connection, or a host that says it is busy."""
    wait_s: float = 1.0
    """Before the first retry; doubles. A host's Retry-After is kept, up to a minute."""
    max_bytes: int = 20 << 20
    allow_private: bool = False
    """Whether loopback and private networks may be asked; an address in a data set is foreign
    input, so no."""
    respect_opt_out: bool = True
    """Leave out what its host marks noai, noimageai or noindex (X-Robots-Tag)."""
    user_agent: str = "irudimen-data-prep (research; images of published data sets)"

    def __post_init__(self) -> None:
        """Check the limits."""
        if min(self.concurrency, self.per_host, self.max_bytes) < 1 or self.retries < 0:
            raise ConfigError("fetch: concurrency, per_host, max_bytes at least 1; retries 0")
        if min(self.timeout_s, self.wait_s) <= 0:
            raise ConfigError("fetch: timeout_s and wait_s must be above 0")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """An address, and the sha256 its data set publishes ("" for none)."""

    url: str
    sha256: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What an address gave."""

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
    """Ask for every address; `on_result` gets each as it comes, in any order."""
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
    # Without decompression a small reply can't unfold into a large one.
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers, auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:  # fmt: skip

        async def work() -> None:
            while not queue.empty():
                on_result(await _fetch(session, queue.get_nowait(), config))

        await asyncio.gather(*(work() for _ in range(min(config.concurrency, len(wanted)))))


async def _fetch(session: aiohttp.ClientSession, wanted: Wanted, config: FetchConfig) -> Fetched:
    for delay_s in (*backoff_delays(config.retries, first_s=config.wait_s), None):
        try:
            content = await _follow(session, wanted.url, config)
            await asyncio.to_thread(_check, content, wanted)
        except _FailedError as failed:
            if failed.again_in is None or delay_s is None:
                return Fetched(wanted=wanted, outcome=failed.outcome, detail=failed.detail)
            await asyncio.sleep(min(_MOST_WAIT_S, max(delay_s, failed.again_in)))
        else:
            return Fetched(wanted=wanted, outcome=Outcome.FETCHED, content=content)
    raise AssertionError("unreachable")


async def _follow(session: aiohttp.ClientSession, url: str, config: FetchConfig) -> bytes:
    for _ in range(_MOST_REDIRECTS + 1):
        _check_address(url, config)
        try:
            async with session.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await _read(response, config)
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
            told = f"{type(error).__name__}: {error}"
            raise _FailedError(Outcome.UNREACHABLE, told[:200], again_in=0) from error
    raise _FailedError(Outcome.UNREACHABLE, f"more than {_MOST_REDIRECTS} redirects")


def _check_address(url: str, config: FetchConfig) -> None:
    """Scheme, and host if it is a bare address (names are checked when they are resolved)."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise _FailedError(Outcome.UNREACHABLE, f"no address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise _FailedError(Outcome.UNREACHABLE, "no http(s) address")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not config.allow_private and not _is_public(address):
        raise _FailedError(Outcome.PRIVATE, str(address))


async def _read(response: aiohttp.ClientResponse, config: FetchConfig) -> bytes:
    status = response.status
    if status in _GONE:
        raise _FailedError(Outcome.GONE, f"HTTP {status}")
    if status in _BLOCKED:
        raise _FailedError(Outcome.BLOCKED, f"HTTP {status}")
    if status in _RETRIED:
        again = _seconds(response.headers.get("Retry-After", ""))
        outcome = Outcome.BLOCKED if status == _BUSY else Outcome.UNREACHABLE
        raise _FailedError(outcome, f"HTTP {status}", again_in=again)
    if status != _OK:
        raise _FailedError(Outcome.UNREACHABLE, f"HTTP {status}")
    robots = response.headers.get("X-Robots-Tag", "").lower().replace(",", " ").split()
    if config.respect_opt_out and _OPT_OUT.intersection(robots):
        raise _FailedError(Outcome.BLOCKED, f"X-Robots-Tag: {' '.join(robots)[:80]}")
    if (response.content_length or 0) > config.max_bytes:
        raise _FailedError(Outcome.TOO_LARGE, f"{response.content_length} bytes")
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        content += chunk
        if len(content) > config.max_bytes:
            raise _FailedError(Outcome.TOO_LARGE, f"more than {config.max_bytes} bytes")
    return bytes(content)


def _check(content: bytes, wanted: Wanted) -> None:
    try:
        decode_image(content)
    except DataError as error:
        raise _FailedError(Outcome.NOT_A_IMAGE, str(error)[:200]) from error
    if wanted.sha256 and sha256_bytes(content) != wanted.sha256.lower():
        raise _FailedError(Outcome.HASH_DIFFERS, sha256_bytes(content))


def _seconds(text: str) -> float:
    """Of a Retry-After; dates are rare and count as none."""
    return float(text) if text.isdecimal() else 0.0


class _PrivateAddressError(OSError):
    pass


class _PublicResolver(AbstractResolver):
    """Names of the public internet only: the address that is checked is the one connected to."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for one in found:
            if not _is_public(ipaddress.ip_address(one["host"].partition("%")[0])):
                raise _PrivateAddressError(f"{host} is {one['host']}")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast
