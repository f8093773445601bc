"""What may refuse a call beside the breaker: its bulkhead, its rate limit and its throttle.

1.  They are asked after the breaker and in this order: a throttle, which stands in for the breaker, then the bulkhead,
    then the rate limit. The first that refuses ends it, and nothing behind it is used up.
2.  A refusal by one of them is no result: it enters no window of the breaker and takes no slot of a probe.
3.  A bulkhead holds nothing. It compares the number of permits in flight, so whatever gives a permit back frees its
    place, and another limit is in force at once.
4.  A rate limit is the generic cell rate algorithm: one number, the time until which calls have been allowed.
    Calls that are refused one after another are told the same, so what they are told is made once.
5.  A throttle refuses a share of the calls, max(0, (calls - k * accepted) / (calls + 1)), which counts those that were
    refused here: else the share would never grow with the load (Google's Site Reliability Engineering, "Handling
    Overload"). Once a second one call passes whatever the share is: else it takes minutes to find a recovery.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from grpc_breaker._core.method_policy import MethodPolicy, RateLimit, Throttle
from grpc_breaker._core.refusing import Refusing
from grpc_breaker._core.state import RefusalReason, State
from grpc_breaker._core.succession import chance
from grpc_breaker._core.window import TimeWindow, Window

_LONG_AGO: Final = -math.inf
_ROUNDING: Final = 1e-9
"""Seconds that times may differ by because they are sums of floats."""
_PASS_EVERY: Final = 1.0
"""Seconds between two calls that a throttle lets pass whatever its share is."""


class RateLimiter:
    """How far ahead of time calls have been allowed. State that two threads meet in is one number, written once."""

    __slots__ = ("_ahead", "_allowed_until", "_interval", "_said", "per_second")

    def __init__(self, limit: RateLimit) -> None:
        self.per_second = limit.calls_per_second
        self._interval = 1.0 / limit.calls_per_second
        self._ahead = self._interval * ((limit.burst or 1) - 1)
        self._allowed_until = _LONG_AGO
        self._said: Refusing | None = None

    def reconfigure(self, limit: RateLimit, now: float) -> None:
        """Put another limit in force; calls that were allowed still count, as many as its burst at most.

        So nobody waits at the new pace for a debt that was made at another.
        """
        burst, interval = limit.burst or 1, 1.0 / limit.calls_per_second
        ahead = interval * (burst - 1)
        if (interval, ahead) == (self._interval, self._ahead):
            return
        allowed = (self._allowed_until - now) / self._interval
        self.per_second, self._interval, self._ahead = limit.calls_per_second, interval, ahead
        self._said = None
        if allowed > 0.0:
            self._allowed_until = now + min(allowed, burst) * interval

    def refuses(self, name: str, state: State, now: float) -> Refusing | None:
        """Allow a call, or say what refuses it."""
        until = self._allowed_until
        earliest = until - self._ahead
        if earliest - _ROUNDING > now:
            said = self._said
            if said is not None and said.until == earliest and said.state is state:
                return said
            return self._refusing(name, state, earliest)
        if until < now:  # noqa: PLR1730 - from reading to writing no call, which could let another thread in
            until = now
        self._allowed_until = until + self._interval
        return None

    def too_early(self, name: str, state: State, now: float) -> Refusing | None:
        """What refuses a call now; `None` if nothing does. Allows none."""
        earliest = self._allowed_until - self._ahead
        return self._refusing(name, state, earliest) if earliest - _ROUNDING > now else None

    def give_back(self) -> None:
        """Take it back that a call was allowed, which something else has refused."""
        self._allowed_until -= self._interval  # pragma: no cover - only where callers meet: tests/model

    def is_idle(self, now: float) -> bool:
        """Whether nothing is left of the calls that were allowed."""
        return self._allowed_until <= now

    def _refusing(self, name: str, state: State, until: float) -> Refusing:
        reason = RefusalReason.RATE
        said = self._said = Refusing(name, state, None, until, "RESOURCE_EXHAUSTED", self.per_second, reason)
        return said


class Throttling:
    """Which share of the calls a throttle refuses now."""

    __slots__ = ("_pass_at", "_policy", "_refused", "_said")

    def __init__(self, policy: Throttle) -> None:
        self._policy = policy
        self._refused: tuple[Window, TimeWindow] | None = None
        """A window of the breaker, and the calls that were refused since it began: a reset forgets them, too."""
        self._pass_at = _LONG_AGO
        self._said: Refusing | None = None

    def reconfigure(self, policy: Throttle) -> None:
        """Put another policy in force; the refusals stay where the breaker's window does."""
        self._policy = policy

    def share(self, window: Window, now: float) -> float:
        """The share of the calls that is refused, from 0 to below 1.

        Args:
            window: What the breaker counted.
            now: When.
        """
        policy, beside = self._policy, self._refused
        if beside is None or beside[0] is not window:
            beside = self._refused = (window, TimeWindow(policy.window, now))
        refused = beside[1]
        if now < window.quiet_until:  # what `held` says, without a call
            before = window.before
            ended, failed = window.calls - before[0], window.failures - before[1]
        else:
            ended, failed, _ = window.held(now)
        calls = ended
        if refused.calls:
            calls += refused.calls - refused.before[0] if now < refused.quiet_until else refused.held(now)[0]
        too_many = calls - policy.k * (ended - failed)
        return too_many / (calls + 1) if too_many > 0.0 and calls >= policy.minimum_calls else 0.0

    def refuses(self, name: str, window: Window, now: float, random: Callable[[], float]) -> Refusing | None:
        """Let a call pass a closed breaker, or say what refuses it."""
        share = self.share(window, now)
        if share == 0.0 or chance(random) >= share:
            return None
        if now >= self._pass_at:
            self._pass_at = now + _PASS_EVERY
            return None
        beside, said = self._refused, self._said
        if beside is not None:  # pragma: no branch - it is, since `share`
            refused = beside[1]
            refused.calls += 1
            if now >= refused.quiet_until:
                refused.good(now)
        percent = 100.0 * share
        if said is None or not -0.5 <= percent - said.number < 0.5:
            number, reason = float(int(percent + 0.5)), RefusalReason.THROTTLE
            said = self._said = Refusing(name, State.CLOSED, None, _LONG_AGO, "UNAVAILABLE", number, reason)
        return said


class Limits:
    """The limits of one breaker."""

    __slots__ = ("_full", "most", "rate", "streams", "throttling")

    def __init__(self) -> None:
        self.most: float = math.inf
        """Calls in flight at most; infinite without a bulkhead."""
        self.streams = False
        """Whether streams, too, are limited by it."""
        self.rate: RateLimiter | None = None
        self.throttling: Throttling | None = None
        self._full: Refusing | None = None

    def full(self, name: str, state: State) -> Refusing:
        """What is said to calls that find the bulkhead full."""
        said = self._full
        if said is None or said.state is not state:
            reason = RefusalReason.BULKHEAD
            said = self._full = Refusing(name, state, None, _LONG_AGO, "UNAVAILABLE", self.most, reason)
        return said

    def give_back(self) -> None:
        """Take back what the rate limit has counted for a call that was refused after it."""
        if self.rate is not None:  # pragma: no cover - only where callers meet: tests/model
            self.rate.give_back()

    def as_dict(self, window: Window, now: float) -> dict[str, Any]:
        """The limits as plain data, with the share of calls that the throttle refuses now."""
        return {
            "max_concurrent_calls": None if self.most == math.inf else int(self.most),
            "calls_per_second": None if self.rate is None else self.rate.per_second,
            "throttled_share": None if self.throttling is None else self.throttling.share(window, now),
        }

    @classmethod
    def after(cls, old: Limits | None, policy: MethodPolicy, now: float) -> Limits | None:
        """The limits that a policy wants, with the state of those before; `None` where it wants none."""
        if policy.max_concurrent_calls is None and policy.rate_limit is None and policy.throttle is None:
            return None
        new = cls()
        if policy.max_concurrent_calls is not None:
            new.most = policy.max_concurrent_calls
            new.streams = policy.bulkhead_streams
        if policy.rate_limit is not None:
            new.rate = (None if old is None else old.rate) or RateLimiter(policy.rate_limit)
            new.rate.reconfigure(policy.rate_limit, now)
        if policy.throttle is not None:
            new.throttling = (None if old is None else old.throttling) or Throttling(policy.throttle)
            new.throttling.reconfigure(policy.throttle)
        return new
