"""What may refuse a call beside the breaker: its bulkhead, its rate limit and its throttle.

1.  They are asked after the breaker and in this order: a throttle, which stands in for the breaker, then the bulkhead,
    then the rate limit. The first that refuses ends it, and nothing behind it is used up.
2.  A refusal by one of them is no result: it enters no window of the breaker and takes no slot of a probe.
3.  A bulkhead holds nothing. It compares the number of permits in flight, so whatever gives a permit back frees its
    place, and another limit is in force at once.
4.  A rate limit is the generic cell rate algorithm: one number, the time until which calls have been allowed.
5.  A throttle refuses a share of the calls, max(0, (calls - k * accepted) / (calls + 1)), which counts those that were
    refused here: else the share would never grow with the load (Google's Site Reliability Engineering, "Handling
    Overload"). Once a second one call passes whatever the share is: else it takes minutes to find a recovery.
"""

from __future__ import annotations

import math
from typing import Any, Final

from grpc_breaker._core.method_policy import MethodPolicy, RateLimit, Throttle
from grpc_breaker._core.refusing import Refusing
from grpc_breaker._core.state import RefusalReason, State
from grpc_breaker._core.window import TimeWindow, Window

_LONG_AGO: Final = -math.inf
_ROUNDING: Final = 1e-9
"""Seconds that times may differ by because they are sums of floats."""
_PASS_EVERY: Final = 1.0
"""Seconds between two calls that a throttle lets pass whatever its share is."""


class RateLimiter:
    """How far ahead of time calls have been allowed. State that two threads meet in is one number, written once."""

    __slots__ = ("_ahead", "_allowed_until", "_interval", "per_second")

    def __init__(self, limit: RateLimit) -> None:
        self._allowed_until = _LONG_AGO
        self.reconfigure(limit)

    def reconfigure(self, limit: RateLimit) -> None:
        """Put another limit in force; calls that were allowed still count."""
        self.per_second = limit.calls_per_second
        self._interval = 1.0 / limit.calls_per_second
        self._ahead = self._interval * ((limit.burst or 1) - 1) + _ROUNDING

    def refuses(self, name: str, state: State, now: float) -> Refusing | None:
        """Allow a call, or say what refuses it."""
        until = self._allowed_until
        if until - now > self._ahead:
            return self.too_early(name, state, now)
        if until < now:  # noqa: PLR1730 - from reading to writing no call, which could let another thread in
            until = now
        self._allowed_until = until + self._interval
        return None

    def too_early(self, name: str, state: State, now: float) -> Refusing | None:
        """What refuses a call now; `None` if nothing does. Allows none."""
        until = self._allowed_until - self._ahead
        if until <= now:
            return None
        return Refusing(name, state, None, until, "RESOURCE_EXHAUSTED", self.per_second, RefusalReason.RATE)


class Throttling:
    """Which share of the calls a throttle refuses now."""

    __slots__ = ("_pass_at", "_policy", "_refused")

    def __init__(self, policy: Throttle, now: float) -> None:
        self._policy = policy
        self._refused = TimeWindow(policy.window, now)
        self._pass_at = _LONG_AGO

    def reconfigure(self, policy: Throttle, now: float) -> None:
        """Put another policy in force; the refusals stay where the window does."""
        if policy.window != self._policy.window:
            self._refused = TimeWindow(policy.window, now)
        self._policy = policy

    def share(self, window: Window, now: float) -> float:
        """The share of the calls that is refused, from 0 to below 1.

        Args:
            window: What the breaker counted.
            now: When.
        """
        policy = self._policy
        ended, failed, _ = window.held(now)
        calls = ended + self._refused.held(now)[0]
        if calls < policy.minimum_calls:
            return 0.0
        return max(0.0, (calls - policy.k * (ended - failed)) / (calls + 1))

    def refuses(self, name: str, state: State, window: Window, now: float, chance: float) -> Refusing | None:
        """Let a call pass, or say what refuses it; `chance` is a random number in [0, 1)."""
        share = self.share(window, now)
        if chance >= share:
            return None
        if now >= self._pass_at:
            self._pass_at = now + _PASS_EVERY
            return None
        self._refused.calls += 1
        if now >= self._refused.quiet_until:
            self._refused.good(now)
        return Refusing(name, state, None, _LONG_AGO, "UNAVAILABLE", 100 * share, RefusalReason.THROTTLE)


class Limits:
    """The limits of one breaker."""

    __slots__ = ("max_concurrent_calls", "rate", "streams", "throttling")

    def __init__(self) -> None:
        self.max_concurrent_calls: int | None = None
        """Calls in flight at most."""
        self.streams = False
        """Whether streams, too, are limited by it."""
        self.rate: RateLimiter | None = None
        self.throttling: Throttling | None = None

    def as_dict(self, window: Window, now: float) -> dict[str, Any]:
        """The limits as plain data, with the share of calls that the throttle refuses now."""
        return {
            "max_concurrent_calls": self.max_concurrent_calls,
            "calls_per_second": None if self.rate is None else self.rate.per_second,
            "throttled_share": None if self.throttling is None else self.throttling.share(window, now),
        }

    @classmethod
    def after(cls, old: Limits | None, policy: MethodPolicy, now: float) -> Limits | None:
        """The limits that a policy wants, with the state of those before; `None` where it wants none."""
        if policy.max_concurrent_calls is None and policy.rate_limit is None and policy.throttle is None:
            return None
        new = cls()
        new.max_concurrent_calls, new.streams = policy.max_concurrent_calls, policy.bulkhead_streams
        if policy.rate_limit is not None:
            new.rate = old.rate if old is not None and old.rate is not None else RateLimiter(policy.rate_limit)
            new.rate.reconfigure(policy.rate_limit)
        if policy.throttle is not None:
            throttling = None if old is None else old.throttling
            new.throttling = throttling or Throttling(policy.throttle, now)
            new.throttling.reconfigure(policy.throttle, now)
        return new
