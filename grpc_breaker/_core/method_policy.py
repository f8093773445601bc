"""What is wanted of the calls of one method: its breaker, and the parts around it.

`MethodPolicy` says in Python what one entry of a service config says. The order of the parts is fixed:

    fallback → timeout → retry → [one decision: breaker or throttle → bulkhead → rate limit] → attempt timeout → wire

These classes only say what is wanted, and are checked when they are made.
"""

from __future__ import annotations

import copy
import math
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, Final

from grpc_breaker._core.checks import (
    BadValueError,
    Check,
    check_fields,
    complaint,
    count,
    flag,
    instance_of,
    number,
    optional,
    seconds,
    several,
    status_of_failure,
)
from grpc_breaker._core.fallback import Fallback
from grpc_breaker._core.policy import CONDITIONS, BreakerPolicy
from grpc_breaker._core.spelling import names_nearest_field

_DEFAULT_BREAKER: Final = BreakerPolicy()
_LEAST_BACKOFF: Final = 0.01
_MOST_ATTEMPTS: Final = 5

_backoff: Final = number("a number of seconds from 0.01 to 1e9", low=_LEAST_BACKOFF, high=1e9)


def _attempts(attempts: Any) -> int:
    """A check for a number of attempts."""
    checked: int = count(2)(attempts)
    if checked > _MOST_ATTEMPTS:
        allowed = f"an integer from 2 to {_MOST_ATTEMPTS}: gRPC makes no more attempts than {_MOST_ATTEMPTS}"
        raise BadValueError(allowed, ValueError)
    return checked


@names_nearest_field
@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """When a call is tried again, by gRPC's rules (gRFC A6): exponential back-off, each time ±20 %.

    Each attempt asks the breaker; a refusal is not retried. Immutable, and safe to share between methods and threads.

    Attributes:
        max_attempts: Attempts at most, the first included, an integer from 2 to 5. Default 3.
        initial_backoff: Seconds before the second attempt, from 0.01 to 1e9 (grpc #41036: channels hang on less).
            Default 0.05.
        max_backoff: Seconds that the wait grows to at most, from 0.01 to 1e9. Default 1.
        backoff_multiplier: The factor by which the wait grows with each attempt, above 0. Default 2.
        retryable_status_codes: Of which statuses, as codes or by their names; at least one, and not OK.
            Default: UNAVAILABLE.

    Raises:
        TypeError: A value of the wrong kind, or a field that there is not: the error names the nearest.
        ValueError: A value out of range.
    """

    max_attempts: int = 3
    initial_backoff: float = 0.05
    max_backoff: float = 1.0
    backoff_multiplier: float = 2.0
    retryable_status_codes: tuple[str, ...] = ("UNAVAILABLE",)

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, RETRY_CHECKS)


RETRY_CHECKS: Final[dict[str, Check]] = {
    "max_attempts": _attempts,
    "initial_backoff": _backoff,
    "max_backoff": _backoff,
    "backoff_multiplier": number("a number above 0", low=0.0, above_low=True),
    "retryable_status_codes": several(
        status_of_failure, "gRPC statuses other than OK, or their names, at least one and none twice"
    ),
}
"""The checks of the fields, each alone."""


@names_nearest_field
@dataclass(frozen=True, kw_only=True, slots=True)
class RetryThrottling:
    """When retries stop because too many calls fail, by gRPC's rules (gRFC A6). One for a whole registry.

    There are `max_tokens` at first. An attempt that fails costs one, a call that succeeds brings `token_ratio`; while
    no more than half of them are there, nothing is retried. Immutable.

    Attributes:
        max_tokens: An integer from 1 to 1000; gRPC's own channels take no other. Default 10.
        token_ratio: From 0.001, the least that gRPC's own channels see, to 1000. Default 0.1.

    Raises:
        TypeError: A value of the wrong kind, or a field that there is not: the error names the nearest.
        ValueError: A value out of range.
    """

    max_tokens: int = 10
    token_ratio: float = 0.1

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, RETRY_THROTTLING_CHECKS)


RETRY_THROTTLING_CHECKS: Final[dict[str, Check]] = {
    "max_tokens": count(most=1000),
    "token_ratio": number("a number from 0.001 to 1000", low=0.001, high=1000.0),
}
"""The checks of the fields, each alone."""


@names_nearest_field
@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many calls of a method may begin in a second: `RateLimit(200, burst=20)`.

    A call beyond it is refused at once with RESOURCE_EXHAUSTED. Immutable, and safe to share: each method has a limit
    of its own.

    Attributes:
        calls_per_second: On average, from 0.000001 to 1e9.
        burst: Calls that may begin at one moment after a quiet time, an integer from 1. Default `None`: as many as in
            one second, at least 1; the field then holds that number.

    Raises:
        TypeError: A value of the wrong kind, or a field that there is not: the error names the nearest.
        ValueError: A value out of range.
    """

    calls_per_second: float
    _: KW_ONLY
    burst: int | None = None

    def __post_init__(self) -> None:
        """Check every field, and choose the burst."""
        check_fields(self, RATE_LIMIT_CHECKS)
        if self.burst is None:
            object.__setattr__(self, "burst", max(1, math.ceil(self.calls_per_second)))


RATE_LIMIT_CHECKS: Final[dict[str, Check]] = {
    "calls_per_second": number("a number from 0.000001 to 1e9", low=1e-6, high=1e9),
    "burst": optional(count()),
}
"""The checks of the fields, each alone."""


@names_nearest_field
@dataclass(frozen=True, kw_only=True, slots=True)
class Throttle:
    """Refuse a growing share of the calls while the server rejects many, instead of a breaker that opens.

    The share is max(0, (calls - k * accepted) / (calls + 1)) of the calls in the window, those refused here included
    (Google's Site Reliability Engineering, "Handling Overload"). Immutable, and safe to share between methods.

    Attributes:
        k: Calls let through for each one that the server accepts, a number from 1. Default 2: a server that accepts
            half of the calls gets all of them.
        window: How long a call counts, in seconds from 0.000001 to 1e9. Default 30.
        minimum_calls: Calls that the window must hold before any is refused, an integer from 1. Default 20.

    Raises:
        TypeError: A value of the wrong kind, or a field that there is not: the error names the nearest.
        ValueError: A value out of range.
    """

    k: float = 2.0
    window: float = 30.0
    minimum_calls: int = 20

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, THROTTLE_CHECKS)


THROTTLE_CHECKS: Final[dict[str, Check]] = {
    "k": number("a number, 1 or more", low=1.0),
    "window": seconds,
    "minimum_calls": count(),
}
"""The checks of the fields, each alone."""


@names_nearest_field
@dataclass(frozen=True, kw_only=True, slots=True)
class MethodPolicy:
    """What is wanted of the calls of one method; a `BreakerPolicy` alone is one with a breaker and nothing else.

    A part that is `None` is off, and costs nothing. Immutable, and safe to share between methods and threads: each
    method has its own breaker, bulkhead and rate limit.

    Attributes:
        breaker: When the breaker opens. Default: `BreakerPolicy()`. `None`: no trip condition; calls are counted.
        timeout: A call's deadline is at most this, all attempts together, in seconds from 0.000001 to 1e9. The
            caller's own counts where it is shorter. Default `None`: the caller's own.
        attempt_timeout: One attempt's deadline is at most this, in seconds from 0.000001 to 1e9. Default `None`.
        retry: When a call is tried again. Default `None`: never.
        max_concurrent_calls: Calls in flight at most, an integer from 1; one more is refused at once with UNAVAILABLE.
            Default `None`: any number.
        bulkhead_streams: Whether streams, too, count for `max_concurrent_calls`. Default False: calls of one request
            and one answer alone.
        rate_limit: How many calls may begin in a second. Default `None`: any number.
        throttle: Refuse a growing share of the calls while the server rejects many; the breaker then has no trip
            condition. Default `None`: off.
        fallback: What a caller gets instead of an error. Default `None`: the error.
        breaker_policy: The policy that the breaker runs with, made of the others: `breaker`, without trip conditions
            where that is `None` or a throttle is given. Cannot be given.
        in_adapter: Whether anything is wanted of every call beside the one decision that is made before each attempt: a
            deadline, retries, a fallback. Cannot be given.

    Raises:
        TypeError: A value of the wrong kind, or a field that there is not: the error names the nearest.
        ValueError: A value out of range, or a combination that can never work.
    """

    breaker: BreakerPolicy | None = _DEFAULT_BREAKER
    timeout: float | None = None
    attempt_timeout: float | None = None
    retry: RetryPolicy | None = None
    max_concurrent_calls: int | None = None
    bulkhead_streams: bool = False
    rate_limit: RateLimit | None = None
    throttle: Throttle | None = None
    fallback: Fallback | None = None
    breaker_policy: BreakerPolicy = field(init=False, repr=False, compare=False)
    in_adapter: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field, then what they mean together, and make what follows from them."""
        check_fields(self, METHOD_CHECKS)
        if self.bulkhead_streams and self.max_concurrent_calls is None:
            raise ValueError(complaint(self, "bulkhead_streams", "False where max_concurrent_calls is None"))
        for name in ("timeout", "attempt_timeout"):
            given, least = getattr(self, name), self.breaker.minimum_deadline if self.breaker else 0.0
            if given is not None and given < least:
                allowed = f"at least the breaker's minimum_deadline ({least:g}): a shorter deadline never counts"
                raise ValueError(complaint(self, name, allowed))
        object.__setattr__(self, "breaker_policy", _breaker_policy(self.breaker, self.throttle))
        wanted = (self.timeout, self.attempt_timeout, self.retry, self.fallback)
        object.__setattr__(self, "in_adapter", any(it is not None for it in wanted))

    def as_dict(self) -> dict[str, Any]:
        """The policy as plain data, ready for JSON."""
        return {it.name: _plain(getattr(self, it.name)) for it in fields(self) if it.init}


METHOD_CHECKS: Final[dict[str, Check]] = {
    "breaker": optional(instance_of(BreakerPolicy)),
    "timeout": optional(seconds),
    "attempt_timeout": optional(seconds),
    "retry": optional(instance_of(RetryPolicy)),
    "max_concurrent_calls": optional(count()),
    "bulkhead_streams": flag,
    "rate_limit": optional(instance_of(RateLimit)),
    "throttle": optional(instance_of(Throttle)),
    "fallback": optional(instance_of(Fallback)),
}
"""The checks of the fields, each alone."""


def _breaker_policy(breaker: BreakerPolicy | None, throttle: Throttle | None) -> BreakerPolicy:
    """The policy that the breaker runs with: nothing trips where there is no breaker, or a throttle in its place."""
    if breaker is not None and throttle is None:
        return breaker
    policy = copy.copy(breaker or _DEFAULT_BREAKER)  # copied, not made: without a trip condition none can be made
    for condition in CONDITIONS:
        object.__setattr__(policy, condition, None)
    if throttle is not None:
        object.__setattr__(policy, "window_seconds", throttle.window)
        object.__setattr__(policy, "window_calls", None)
    return policy


def _plain(value: Any) -> Any:
    """A part as plain data."""
    if isinstance(value, BreakerPolicy | Fallback):
        return value.as_dict()
    if isinstance(value, RetryPolicy | RateLimit | Throttle):
        return {it.name: _plain(getattr(value, it.name)) for it in fields(value)}
    return [*value] if isinstance(value, tuple) else value
