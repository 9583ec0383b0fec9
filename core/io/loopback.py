"""Web servers on the loopback interface, protected against other pages in the same browser.

Any page in the browser can send requests to a server on 127.0.0.1 and, through DNS rebinding, read
its responses.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

HOST = "127.0.0.1"
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_JSON = "application/json"
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def guard(app: FastAPI, *, max_bytes: int) -> None:
    """Add a middleware that rejects foreign hosts and origins, non-JSON and oversized bodies.

    A body of another form than the handler expects is refused with one sentence.
    """

    @app.exception_handler(RequestValidationError)
    async def _refuse(_: Request, error: RequestValidationError) -> Response:
        # FastAPI's own response repeats the input, which fails for text that is not Unicode.
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return refusal(422, f"{place}: {first['msg']}".removeprefix(": "))

    @app.middleware("http")
    async def _check(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        problem = _check_headers(request, max_bytes)
        if problem is None and request.method in _UNSAFE:
            problem = await _read_body(request, max_bytes)
        response = refusal(*problem) if problem else await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def refusal(status: int, message: str) -> JSONResponse:
    """Return an error response."""
    return JSONResponse({"error": message}, status_code=status)


def serve(app: FastAPI, *, port: int) -> None:
    """Serve until interrupted."""
    import uvicorn

    uvicorn.run(app, host=HOST, port=port, log_level="warning", access_log=False)


def _check_headers(request: Request, max_bytes: int) -> tuple[int, str] | None:
    if (_host_name(request.headers.get("host", "")) or "") not in LOCAL_NAMES:
        return 421, f"this page is not served under that name; open http://{HOST}:PORT"
    origin = request.headers.get("origin")
    own = request.headers.get("host", "")
    if origin is not None and urlsplit(origin).netloc != own:
        return 403, "requests from other pages are not allowed"
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "requests from other pages are not allowed"
    if request.method not in _UNSAFE:
        return None
    if request.headers.get("content-type", "").partition(";")[0].strip() != _JSON:
        return 415, f"the body must be {_JSON}"
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > max_bytes:
        return 413, f"more than {max_bytes:,} bytes"
    return None


async def _read_body(request: Request, max_bytes: int) -> tuple[int, str] | None:
    """Read the body for the handler; its size is counted even if it was not declared."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            return 413, f"more than {max_bytes:,} bytes"
        parts.append(part)
    body: Any = b"".join(parts)
    request._body = body
    return None


def _host_name(host: str) -> str | None:
    """Return the host name of a Host header, or None if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
