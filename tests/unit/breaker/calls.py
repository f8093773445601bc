"""Calls that these tests make, and user code that runs in the middle of the breaker's own."""

from __future__ import annotations

from collections.abc import Callable

from grpc_breaker import CircuitBreaker, Outcome, Permit
from grpc_breaker.testing import FakeClock


def trip(breaker: CircuitBreaker) -> None:
    """Open it by two failures."""
    for n in range(2):
        breaker.admit("pkg.S/M", f"context {n}").failure("UNAVAILABLE", f"details {n}")


def probe_of(breaker: CircuitBreaker, clock: FakeClock) -> Permit:
    """Open it, wait for the end of the open period, and admit the first probe."""
    trip(breaker)
    clock.advance(10)
    return breaker.admit()


def end_calls(breaker: CircuitBreaker, clock: FakeClock, results: str) -> None:
    """End calls by letter: f fails, s succeeds, l succeeds late."""
    for result in results:
        permit = breaker.admit()
        clock.advance(0.0 if result != "l" else 0.5)
        assert permit.settle(Outcome.FAILURE if result == "f" else Outcome.SUCCESS, "OK" if result != "f" else "")


class CallingClock(FakeClock):
    """A clock that calls a function the next time it is read: user code in the middle of the breaker's own."""

    then: Callable[[], object] | None = None

    def __call__(self) -> float:
        if self.then is not None:
            act, self.then = self.then, None
            act()
        return super().__call__()
