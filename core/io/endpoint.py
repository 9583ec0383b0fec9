"""Client of an OpenAI-compatible endpoint, with retries, a cache and a record of its costs.

It needs a single request type, so it uses urllib instead of adding the `openai` package to the
dependencies.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.errors import ConfigError, IrudimenError
from core.io.files import atomic_write_text
from core.io.images import portable_image
from core.process.log import without_password
from core.retry import call_with_retries

_RETRIED = (408, 409, 429, 500, 502, 503, 504, 529)
SENT_TYPES = frozenset({"image/jpeg", "image/png"})
"""Formats in which images are sent: those that every server decodes."""
_DELAYS_S = (1.0, 4.0, 15.0, 60.0)


class EndpointError(IrudimenError):
    """Error response, no response, or a response that does not follow the interface."""


class TruncatedReplyError(EndpointError):
    """Reply that was truncated at `max_tokens`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Address and prices of an endpoint; nothing is sent unless one is configured."""

    url: str
    """Base URL, e.g. http://127.0.0.1:8000/v1."""
    model: str
    """Name of the model at the endpoint."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the API key, which is never stored."""
    price_in: float = 0.0
    """Price of a million input tokens."""
    price_out: float = 0.0
    """Price of a million output tokens."""
    timeout_s: float = 120.0
    """Timeout of one request."""

    def __post_init__(self) -> None:
        """Check the URL."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigError(
                "endpoint must be an http(s) URL without credentials, got "
                f"'{without_password(self.url)}'; set the key in {self.key_variable}"
            )


@dataclasses.dataclass(kw_only=True)
class Bill:
    """Number of requests and their costs."""

    asked: int = 0
    cached: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """Reply of the endpoint."""

    text: str
    num_tokens: int
    """Count reported by the endpoint, 0 if there is none."""
    is_truncated: bool
    """True if the reply ended at `max_tokens`."""


class Endpoint:
    """Thread-safe client that sends equal requests once for all runs that share a cache.

    Without a cache every request is sent, which suits callers that store the replies themselves.
    """

    def __init__(
        self,
        config: EndpointConfig,
        cache: Path | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.config, self.bill = config, Bill()
        self._cache, self._sleep = cache, sleep
        self._lock = threading.Lock()

    def complete(
        self, messages: list[dict[str, Any]], *, max_tokens: int, reject_truncated: bool = False
    ) -> str:
        """Return the reply to a conversation at temperature 0.

        Raises:
            TruncatedReplyError: If `reject_truncated` is set and the reply was truncated.
            EndpointError: If the request fails, or the response is invalid.
        """
        found = self.completion(messages, max_tokens=max_tokens)
        if reject_truncated and found.is_truncated:
            raise TruncatedReplyError(
                f"{self.config.url}: the reply exceeds max_tokens={max_tokens}"
            )
        return found.text

    def completion(self, messages: list[dict[str, Any]], *, max_tokens: int) -> Completion:
        """Return the reply with its length; see `complete`.

        Raises:
            EndpointError: If the request fails, or the response is invalid.
        """
        body = {
            "model": self.config.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        text = json.dumps(body, ensure_ascii=False, sort_keys=True)
        digest = hashlib.sha256(f"{self.config.url}\n{text}".encode()).hexdigest()
        path = self._cache / digest[:2] / f"{digest}.json" if self._cache else None
        if path is not None and path.is_file():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                stored = _parse_completion(json.loads(path.read_text(encoding="utf-8")))
                with self._lock:
                    self.bill.cached += 1
                return stored  # a damaged file is asked again and replaced
        answer = self._send(text.encode("utf-8"))
        try:
            choice = answer["choices"][0]
            reply = str(choice["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as error:
            raise EndpointError(
                f"{self.config.url} returned a response without a message: {error!r}"
            ) from error
        usage = answer.get("usage") or {}
        self._count(usage)
        record = {"reply": reply, "usage": usage, "model": answer.get("model"),
                "cut": choice.get("finish_reason") == "length"}  # fmt: skip
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, json.dumps(record, ensure_ascii=False) + "\n")
        return _parse_completion(record)

    def _send(self, body: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.config.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            self.config.url.rstrip("/") + "/chat/completions", data=body, headers=headers
        )

        def post() -> dict[str, Any]:
            with urllib.request.urlopen(request, timeout=self.config.timeout_s) as response:
                answer: dict[str, Any] = json.loads(response.read())
            return answer

        try:
            answer = call_with_retries(
                post,
                delays_s=_DELAYS_S,
                is_transient=_is_transient,
                on_retry=self._count_retry,
                sleep=self._sleep,
            )
        except urllib.error.HTTPError as error:
            if _is_transient(error):
                raise self._unanswered(f"HTTP {error.code}") from error
            body_text = error.read(500).decode("utf-8", "replace")
            raise EndpointError(f"{self.config.url}: HTTP {error.code}: {body_text}") from error
        except (OSError, ValueError) as error:
            raise self._unanswered(f"{type(error).__name__}: {error}") from error
        with self._lock:
            self.bill.asked += 1
        return answer

    def _unanswered(self, reason: str) -> EndpointError:
        num_attempts = len(_DELAYS_S) + 1
        return EndpointError(
            f"{self.config.url} did not answer in {num_attempts} attempts: {reason}"
        )

    def _count_retry(self, error: Exception, delay_s: float) -> None:
        del delay_s
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        with self._lock:
            self.bill.retries += 1

    def _count(self, usage: dict[str, Any]) -> None:
        read, written = (int(usage.get(f"{side}_tokens") or 0) for side in ("prompt", "completion"))
        with self._lock:
            self.bill.tokens_in += read
            self.bill.tokens_out += written
            self.bill.cost += (read * self.config.price_in + written * self.config.price_out) / 1e6


def _is_transient(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _RETRIED
    return isinstance(error, OSError | ValueError)


def image_part(image: bytes) -> dict[str, Any]:
    """Return an encoded image as a part of a message, as a JPEG or PNG.

    Servers on llama.cpp reject every other format; a WebP image becomes a lossless PNG.

    Raises:
        DataError: If the image can't be decoded.
    """
    content, media_type = portable_image(image, media_types=SENT_TYPES)
    data = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": data}}


def _parse_completion(record: dict[str, Any]) -> Completion:
    written = int((record["usage"] or {}).get("completion_tokens") or 0)
    return Completion(
        text=str(record["reply"]), num_tokens=written, is_truncated=bool(record.get("cut"))
    )
