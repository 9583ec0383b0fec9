"""One OpenAI-compatible endpoint: retries, a cache so that nothing is paid twice, and a bill."""

import base64
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
from core.io.image_types import image_type
from core.retry import call_with_retries

_RETRIED = (408, 409, 429, 500, 502, 503, 504, 529)
_DELAYS_S = (1.0, 4.0, 15.0, 60.0)


class EndpointError(IrudimenError):
    """The endpoint refused, or answered something else than its interface."""


class CutOffError(EndpointError):
    """A reply that had no room."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Where to ask; nothing is sent anywhere unless one is configured."""

    url: str
    """Base address, as http://127.0.0.1:8000/v1."""
    model: str
    """Name of the model there."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; it is sent nowhere else and never written down."""
    price_in: float = 0.0
    """Money per million tokens read."""
    price_out: float = 0.0
    """Money per million tokens written."""
    timeout_s: float = 120.0
    """Of one request."""

    def __post_init__(self) -> None:
        """Check the address."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigError(
                f"endpoint '{self.url}' is no http(s) address (keys go into {self.key_variable})"
            )


@dataclasses.dataclass(kw_only=True)
class Bill:
    """What was asked and what it cost."""

    asked: int = 0
    cached: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What came back."""

    text: str
    num_tokens: int
    """As the endpoint counts them, 0 if it does not."""
    is_cut: bool
    """It had no room to end."""


class Endpoint:
    """Asks for completions; the same request is asked once, over all runs that share the cache.

    Without a cache every request is asked: for callers that keep the replies themselves. Several
    threads may use one.
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
        self, messages: list[dict[str, Any]], *, max_tokens: int, refuse_cut: bool = False
    ) -> str:
        """The reply to a conversation, greedy.

        Raises:
            CutOffError: it was cut off at `max_tokens`, and `refuse_cut` is set.
            EndpointError: it refused for good, or its answer can't be read.
        """
        found = self.completion(messages, max_tokens=max_tokens)
        if refuse_cut and found.is_cut:
            raise CutOffError(f"{self.config.url}: the reply was longer than {max_tokens} tokens")
        return found.text

    def completion(self, messages: list[dict[str, Any]], *, max_tokens: int) -> Completion:
        """The same with its length.

        Raises:
            EndpointError: it refused for good, or its answer can't be read.
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
            with self._lock:
                self.bill.cached += 1
            return _completion(json.loads(path.read_text(encoding="utf-8")))
        answer = self._ask(text.encode("utf-8"))
        try:
            choice = answer["choices"][0]
            reply = str(choice["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as error:
            raise EndpointError(
                f"{self.config.url} answered without a message: {error!r}"
            ) from error
        usage = answer.get("usage") or {}
        self._count(usage)
        kept = {"reply": reply, "usage": usage, "model": answer.get("model"),
                "cut": choice.get("finish_reason") == "length"}  # fmt: skip
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, json.dumps(kept, ensure_ascii=False) + "\n")
        return _completion(kept)

    def _ask(self, body: bytes) -> dict[str, Any]:
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
        del error, delay_s
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
    """An encoded image as a part of a message."""
    kind = image_type(image) or "application/octet-stream"
    data = f"data:{kind};base64,{base64.b64encode(image).decode()}"
    return {"type": "image_url", "image_url": {"url": data}}


def _completion(kept: dict[str, Any]) -> Completion:
    written = int((kept["usage"] or {}).get("completion_tokens") or 0)
    return Completion(text=str(kept["reply"]), num_tokens=written, is_cut=bool(kept.get("cut")))
