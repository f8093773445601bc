"""What only another caller in between can bring about, step by step: see `tests/model` for it with real threads."""

from __future__ import annotations

from grpc_breaker import BreakerPolicy, CircuitBreaker, Reason, State
from grpc_breaker._core.generation import HalfOpen
from grpc_breaker._core.refusing import Refusing
from grpc_breaker._core.window import CountWindow
from grpc_breaker.testing import EventRecorder, FakeClock


def test_a_probe_too_many_leaves_again() -> None:
    """A probe that is entered behind the last slot gets none, and leaves nothing behind."""
    refusing = Refusing("prices", State.HALF_OPEN, Reason.FAILURE_RATE, 0.0, "UNAVAILABLE")
    first, second, third = object(), object(), object()
    generation = HalfOpen(1, CountWindow(10), refusing, 1, first, 0.0)
    assert generation.reserve(second, 2)
    assert not generation.reserve(third, 2)
    assert list(generation.probes) == [first, second]


def test_a_change_that_another_caller_has_made() -> None:
    """Where an operator changes the state in the middle of a change, the change is given up, and no event reports it."""
    breaker: CircuitBreaker

    def operator() -> float:
        breaker.force_open()
        return 0.0

    policy = BreakerPolicy(consecutive_failures=1)
    chances = [0.0]
    breaker = CircuitBreaker(
        "prices", policy, clock=FakeClock(), random=lambda: chances.pop() if chances else operator()
    )
    events = EventRecorder(breaker)
    breaker.admit().failure()
    assert [(change.sequence, change.state) for change in events.changes] == [(1, State.FORCED_OPEN)]
