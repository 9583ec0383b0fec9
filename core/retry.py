"""Repeated attempts with growing delays in between."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

ResultT = TypeVar("ResultT")


def backoff_delays(
    num_retries: int, *, first_s: float, factor: float = 2.0, max_s: float = float("inf")
) -> Iterator[float]:
    """Yield the delay before every retry: `first_s`, then `factor` times the previous delay."""
    for retry in range(num_retries):
        yield min(max_s, first_s * factor**retry)


def call_with_retries(
    call: Callable[[], ResultT],
    *,
    delays_s: Iterable[float],
    is_transient: Callable[[Exception], bool],
    on_retry: Callable[[Exception, float], None] = lambda _error, _delay_s: None,
    sleep: Callable[[float], None] | None = None,
) -> ResultT:
    """Call a function until it succeeds, fails for good, or has used up its retries.

    Args:
        call: Function to call.
        delays_s: Seconds to wait before each retry; their number is that of the retries.
        is_transient: Decides whether an error is worth a retry.
        on_retry: Receives the error and the delay before each retry, e.g. to log them.
        sleep: Replaces `time.sleep`.

    Returns:
        The result of the first call that succeeds.

    Raises:
        Exception: The error of the last call.
    """
    for delay_s in delays_s:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            on_retry(error, delay_s)
        (sleep or time.sleep)(delay_s)
    return call()
