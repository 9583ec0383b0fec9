"""Retries: which errors, how often, after which delays."""

import pytest

from core.retry import backoff_delays, call_with_retries


class _Flaky:
    """Fails a number of times, then returns 7."""

    def __init__(self, num_failures: int, error: Exception) -> None:
        self.num_calls = 0
        self._num_failures, self._error = num_failures, error

    def __call__(self) -> int:
        self.num_calls += 1
        if self.num_calls <= self._num_failures:
            raise self._error
        return 7


def _is_os_error(error: Exception) -> bool:
    return isinstance(error, OSError)


def test_delays_grow_up_to_their_maximum() -> None:
    assert list(backoff_delays(5, first_s=1.0, max_s=5.0)) == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert list(backoff_delays(3, first_s=0.5, factor=4.0)) == [0.5, 2.0, 8.0]
    assert list(backoff_delays(0, first_s=1.0)) == []


def test_transient_errors_are_retried_and_reported() -> None:
    call, slept, reported = _Flaky(2, OSError("gone")), [], []  # type: ignore[var-annotated]
    result = call_with_retries(
        call,
        delays_s=(1.0, 2.0, 3.0),
        is_transient=_is_os_error,
        on_retry=lambda error, delay_s: reported.append((str(error), delay_s)),
        sleep=slept.append,
    )
    assert (result, call.num_calls, slept) == (7, 3, [1.0, 2.0])
    assert reported == [("gone", 1.0), ("gone", 2.0)]


def test_the_last_error_is_raised() -> None:
    call = _Flaky(9, OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        call_with_retries(
            call, delays_s=(0.0, 0.0), is_transient=_is_os_error, sleep=lambda _: None
        )
    assert call.num_calls == 3


def test_other_errors_are_raised_at_once() -> None:
    call = _Flaky(9, ValueError("bug"))
    with pytest.raises(ValueError, match="bug"):
        call_with_retries(call, delays_s=(9.0,), is_transient=_is_os_error)
    assert call.num_calls == 1
