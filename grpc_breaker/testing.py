"""What tests of your own code need: a clock you move, a record of what happened, a breaker held open.

    breakers = BreakerRegistry({"pricing.v1.Pricing": BreakerPolicy(reset_timeout=10)}, clock=(clock := FakeClock()))
    with hold_open(breakers, "pricing.v1.Pricing/GetPrice"):
        assert checkout(basket).price_is_a_last_known_one

The pytest fixtures `fake_clock` and `hold_breaker_open` are there as soon as the package is installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager

from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.events import Rejection, StateChange
from grpc_breaker._core.registry import BreakerRegistry
from grpc_breaker._core.state import State

__all__ = ["EventRecorder", "FakeClock", "hold_open"]


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
    source: BreakerRegistry | CircuitBreaker, method: str | None = None
) -> Generator[CircuitBreaker, None, None]:
    """Hold a breaker open for the length of a `with` block: every call is refused, as in an outage.

    Args:
        source: A breaker, or a registry.
        method: With a registry, the method or group whose breaker to hold open.

    Yields:
        The breaker. It is closed and empty after the block, unless an operator had forced it open or disabled it: then
        that is what it is again.

    Raises:
        TypeError: A registry without a method, a breaker with one, or something else.
        KeyError: No policy of the registry covers the method.
        ValueError: `method` is no method's name.
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
    before = breaker.state
    breaker.force_open()
    try:
        yield breaker
    finally:
        if before is State.DISABLED:
            breaker.disable()
        elif before is not State.FORCED_OPEN:
            breaker.reset()


def _check_number(who: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        message = f"{who} takes seconds, got {seconds!r}"
        raise TypeError(message)


def _check_source(who: str, source: object) -> None:
    if not isinstance(source, BreakerRegistry | CircuitBreaker):
        message = f"{who} takes a BreakerRegistry or a CircuitBreaker, got {source!r}"
        raise TypeError(message)
