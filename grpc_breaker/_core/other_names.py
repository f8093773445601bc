"""What other circuit breakers call the things of this one: what an error says to users who come from them.

A descriptor explains each attribute, and not `__getattr__`: with that, CPython 3.11 reads every other attribute of the
class more slowly, and an admitted call takes a third more time.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

_OURS: Final = {
    "call": "write '@breaker' above the function, or 'with breaker.admit():' around the call",
    "call_async": "write '@breaker' above the coroutine function, or 'async with breaker.admit():' around the call",
    "close": "'reset()' closes it",
    "current_state": "read 'state'; its values are lower case, \"half_open\"",
    "open": "'force_open()' opens it until an operator ends that",
    "protect": "write '@breaker' above the function",
    "protect_async": "write '@breaker' above the coroutine function",
}
"""By the name that is not here: what to write instead. docs/migrating.md has the whole tables."""

FIELDS: Final = {
    "break_duration": "reset_timeout",
    "default_threshold": "consecutive_failures",
    "default_ttl": "reset_timeout",
    "exclude": "classify",
    "expected_exception": "classify",
    "fail_max": "consecutive_failures",
    "failure_rate_threshold": "failure_rate",
    "failure_ratio": "failure_rate",
    "ignore_exceptions": "classify",
    "max_requests": "half_open_max_calls",
    "minimum_number_of_calls": "minimum_calls",
    "minimum_throughput": "minimum_calls",
    "permitted_number_of_calls_in_half_open_state": "half_open_max_calls",
    "record_exceptions": "classify",
    "recovery_timeout": "reset_timeout",
    "sampling_duration": "window_seconds",
    "sliding_window_size": "window_calls",
    "slow_call_duration_threshold": "slow_call_duration",
    "slow_call_rate_threshold": "slow_call_rate",
    "success_threshold": "half_open_successes",
    "timeout_duration": "reset_timeout",
    "wait_duration_in_open_state": "reset_timeout",
}
"""By their name of a setting, in Python's spelling: the field of `BreakerPolicy`. The most alike name is often a wrong
one: `failure_threshold` for resilience4j's `failureRateThreshold`.
"""


class _NotHere:
    """An attribute that is not there: reading it raises an AttributeError that says what is."""

    def __init__(self, name: str, hint: str) -> None:
        self._name, self._hint = name, hint

    def __get__(self, instance: object, owner: type[Any]) -> NoReturn:
        message = f"{owner.__name__!r} object has no attribute {self._name!r}: {self._hint}"
        raise AttributeError(message, name=self._name, obj=owner if instance is None else instance)


def explain_in(owner: type[Any]) -> None:
    """Have a class explain the names that it does not have."""
    for name, hint in _OURS.items():
        setattr(owner, name, _NotHere(name, hint))
