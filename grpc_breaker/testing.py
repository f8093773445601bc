"""What tests of your own code need: a clock you move, a record of what happened, a breaker held open, a refusal.

    breakers = BreakerRegistry({"pricing.v1.Pricing": BreakerPolicy(reset_timeout=10)}, clock=(clock := FakeClock()))
    with hold_open(breakers, "pricing.v1.Pricing/GetPrice"):
        assert checkout(basket).price_is_a_last_known_one

The pytest fixtures `fake_clock` and `hold_breaker_open` are there as soon as the package is installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Literal

from grpc_breaker._aio_calls import refused_error
from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.errors import CallRefusedError, refusal_of
from grpc_breaker._core.events import StateChange
from grpc_breaker._core.operators import operate, without_limits
from grpc_breaker._core.refusing import Refusing, Rejection, rejection_of
from grpc_breaker._core.state import Reason, RefusalReason, State
from grpc_breaker._core.target import split_target
from grpc_breaker._registry import BreakerRegistry
from grpc_breaker._rpc import refusal_code
from grpc_breaker._sync import refused_call

__all__ = ["EventRecorder", "FakeClock", "hold_open", "refusal"]


_SHORTEST: Final = 1e-6
_LONGEST: Final = 1e9
"""Seconds of an open period, as `BreakerPolicy.reset_timeout` takes them."""


class FakeClock:
    """A clock that stands still until it is told to move. Give it to a registry or a breaker as `clock`."""

    def __init__(self, now: float = 0.0) -> None:
        """Make a clock that reads `now`, in seconds.

        Raises:
            TypeError: `now` is no number.
            ValueError: `now` is not finite.
        """
        _check_number("FakeClock", now)
        if not math.isfinite(now):
            message = f"FakeClock takes seconds that are finite, got {now!r}"
            raise ValueError(message)
        self._now = now

    def __call__(self) -> float:
        """The time, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`.

        Raises:
            TypeError: `seconds` is no number.
            ValueError: It is negative or not finite: clocks like this one never run backwards.
        """
        _check_number("FakeClock.advance", seconds)
        if not (seconds >= 0 and math.isfinite(seconds)):
            message = f"FakeClock.advance takes seconds, 0 or more, got {seconds!r}"
            raise ValueError(message)
        self._now += seconds


class EventRecorder:
    """Keeps every change of state and every refusal of a breaker or of a registry's breakers, in order.

    Attributes:
        changes: The changes of state so far.
        rejections: The refusals so far.
    """

    def __init__(self, source: BreakerRegistry | CircuitBreaker) -> None:
        """Record everything that `source` does from now on, until `stop()`.

        Raises:
            TypeError: `source` is neither a registry nor a breaker.
        """
        _check_source("EventRecorder", source)
        self.changes: list[StateChange] = []
        self.rejections: list[Rejection] = []
        self._end: tuple[Callable[[], None], ...] = (
            source.on_state_change(self.changes.append),
            source.on_rejection(self.rejections.append),
        )

    @property
    def states(self) -> list[State]:
        """The states entered so far, in order."""
        return [change.state for change in self.changes]

    def stop(self) -> None:
        """Record no more."""
        for end in self._end:
            end()


@contextmanager
def hold_open(
    source: BreakerRegistry | CircuitBreaker,
    method: str | tuple[str, str] | None = None,
    *,
    retry_after: float | None = None,
) -> Generator[CircuitBreaker, None, None]:
    """Hold a breaker open for the length of a `with` block: every call is refused, as in an outage.

    Args:
        source: A breaker, or a registry.
        method: With a registry, the method or group whose breaker to hold open; for one target
            ("pkg.Service/Method", "eu").
        retry_after: Seconds that refusals name, above 0. The breaker is then `open`, as after a failure, which it
            counts; once these seconds are over by its clock, the next call is a probe. Default `None`: the breaker is
            `forced_open`, and refusals name no time.

    Yields:
        The breaker. After the block it is closed and empty; or forced open or disabled again, if an operator had done
        that before.

    Raises:
        TypeError: A registry without a method, a breaker with one, or something else.
        KeyError: No policy of the registry covers the method.
        ValueError: `method` is no method's name, or `retry_after` is not from 0.000001 to 1e9.
    """
    _check_source("hold_open", source)
    if isinstance(source, BreakerRegistry):
        if method is None:
            message = "hold_open(registry, method) needs to know which breaker"
            raise TypeError(message)
        breaker = source[method]
    elif method is None:
        breaker = source
    else:
        message = "hold_open(breaker) takes no method; give the registry instead"
        raise TypeError(message)
    if retry_after is not None:
        _check_wait("hold_open", retry_after)
    before, order, policy = breaker.state, breaker.hold, breaker.policy
    try:
        if retry_after is None:
            operate(breaker, State.FORCED_OPEN)
        else:
            _open_for(breaker, retry_after)
        yield breaker
    finally:
        if breaker.policy is not policy:
            breaker.reconfigure(policy)
        if order is not None:
            operate(breaker, before, order)
        else:
            breaker.reset()


def _open_for(breaker: CircuitBreaker, seconds: float) -> None:
    """Open a breaker by a failure, with an open period of so many seconds; its limits neither refuse nor count it."""
    breaker.reset()
    at_once = replace(
        breaker.policy,
        consecutive_failures=1,
        reset_timeout=seconds,
        reset_timeout_multiplier=1,
        reset_timeout_jitter=0,
        enforcement_percentage=100,
    )
    breaker.reconfigure(at_once)
    with without_limits(breaker):
        breaker.admit().failure("UNAVAILABLE", "held open by a test")


def refusal(
    name: str,
    *,
    retry_after: float | None = 1.0,
    reason: Literal["breaker", "bulkhead", "rate", "throttle"] = "breaker",
    api: Literal["grpc", "grpc.aio", "plain"] = "grpc",
) -> CallRefusedError:
    """Make a refusal without a breaker, for a mock to raise.

    Give it to a mock of a stub::

        stub.GetPrice.side_effect = refusal("pricing.v1.Pricing/GetPrice", retry_after=5)

    Args:
        name: The method that is refused, which is also the breaker's name, "pkg.Service/Method", with a target
            "pkg.Service/Method@eu"; with `api="plain"` the breaker's name alone.
        retry_after: Seconds until a call may pass, and so the state: `open` above 0, `half_open` at 0, `forced_open`
            with `None`. Default 1. A bulkhead and a throttle name no time.
        reason: What refuses it, and so the class: a `CircuitOpenError` of the breaker (the default), a
            `BulkheadFullError`, `RateLimitedError` or `ThrottledError`.
        api: Whose calls are refused, and so the class: "grpc" (the default) makes a `grpc.RpcError`, "grpc.aio" a
            `grpc.aio.AioRpcError`, "plain" the error of `@breaker` and `admit()`, which is neither.

    Raises:
        TypeError: `name` is no string, or `retry_after` no number.
        ValueError: `retry_after` is negative or above 1e9, or `reason` or `api` is something else.
    """
    if reason not in list(RefusalReason):
        message = f"refusal reason must be one of {', '.join(RefusalReason)}, got {reason!r}"
        raise ValueError(message)
    by = RefusalReason(reason)
    if by is not RefusalReason.BREAKER:
        state, condition = State.CLOSED, None
    elif retry_after is None:
        state, condition = State.FORCED_OPEN, Reason.FORCED_OPEN
    elif retry_after == 0:
        state, condition = State.HALF_OPEN, Reason.CONSECUTIVE_FAILURES
    else:
        state, condition = State.OPEN, Reason.CONSECUTIVE_FAILURES
    if retry_after is not None:
        _check_wait("refusal", retry_after, or_zero=True)
    if not isinstance(name, str):
        message = f"refusal takes a name like 'pkg.Service/Method', got {name!r}"
        raise TypeError(message)
    breaker = name if api == "plain" else name.removeprefix("/")
    until = math.inf if state is State.FORCED_OPEN else _until(by, retry_after)
    code = "RESOURCE_EXHAUSTED" if by is RefusalReason.RATE else "UNAVAILABLE"
    refusing = Refusing(breaker, state, condition, until, code, 1, by)
    rejection = rejection_of(refusing, 0.0, "" if api == "plain" else split_target(breaker)[0])
    if api == "grpc":
        return refused_call(rejection, refusal_code(rejection))
    if api == "grpc.aio":
        return refused_error(rejection)
    if api == "plain":
        return refusal_of(rejection)
    message = f"refusal api must be 'grpc', 'grpc.aio' or 'plain', got {api!r}"
    raise ValueError(message)


def _until(by: RefusalReason, retry_after: float | None) -> float:
    """When a call may pass, by a clock that stands at 0. Only a breaker and a rate limit know."""
    return (retry_after or 0.0) if by in {RefusalReason.BREAKER, RefusalReason.RATE} else 0.0


def _check_wait(who: str, seconds: object, *, or_zero: bool = False) -> None:
    allowed = "seconds from 0.000001 to 1e9, 0 or None" if or_zero else "seconds from 0.000001 to 1e9, or None"
    message = f"{who} retry_after takes {allowed}, got {seconds!r}"
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(message)
    if not (_SHORTEST <= seconds <= _LONGEST or (or_zero and seconds == 0)):
        raise ValueError(message)


def _check_number(who: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        message = f"{who} takes seconds, got {seconds!r}"
        raise TypeError(message)


def _check_source(who: str, source: object) -> None:
    if not isinstance(source, BreakerRegistry | CircuitBreaker):
        message = f"{who} takes a BreakerRegistry or a CircuitBreaker, got {source!r}"
        raise TypeError(message)
