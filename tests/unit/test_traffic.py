"""The queue of what happens to calls: what it lets in, how much, and until when."""

from __future__ import annotations

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, StateChange
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.traffic import Happened, TrafficQueue
from grpc_breaker.testing import FakeClock

NAMES = ("pkg.S/A", "pkg.S/B")


@pytest.fixture
def breakers() -> BreakerRegistry:
    """A registry whose breakers open at the first failure."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=1), clock=FakeClock())


def trouble(breakers: BreakerRegistry) -> None:
    """For each name a success, a failure that opens its breaker, and a refusal."""
    for name in NAMES:
        breakers[name].admit().success()
        breakers[name].admit().failure()
        assert isinstance(breakers[name].try_admit(), Rejection)
        breakers[name].reset()


def of(happened: Happened) -> tuple[str, str]:
    """What happened, and to which breaker."""
    if isinstance(happened, tuple):
        return "call", happened[0].name
    return ("change" if isinstance(happened, StateChange) else "refusal"), happened.breaker


def test_what_is_wanted(breakers: BreakerRegistry) -> None:
    """Calls, changes and refusals come in of the breakers that are wanted, and of no other."""
    queue = TrafficQueue(breakers, 100, lambda name: name == "pkg.S/B")
    queue.open()
    trouble(breakers)
    assert sorted(map(of, queue.take(100))) == [
        *[("call", "pkg.S/B")] * 2,
        *[("change", "pkg.S/B")] * 2,
        ("refusal", "pkg.S/B"),
    ]


def test_what_happens_before_and_after(breakers: BreakerRegistry) -> None:
    """Nothing comes in before the queue is open, nor when it is closed again; what waits can still be taken."""
    queue = TrafficQueue(breakers, 100)
    trouble(breakers)
    queue.open()
    queue.open()
    trouble(breakers)
    queue.close()
    queue.close()
    trouble(breakers)
    assert len(queue.take(100)) == 2 * 5


def test_what_does_not_fit(breakers: BreakerRegistry) -> None:
    """What does not fit is counted and dropped, the newest first."""
    queue = TrafficQueue(breakers, 3)
    queue.open()
    trouble(breakers)
    assert queue.dropped == 7
    assert {of(it)[1] for it in queue.take(100)} == {"pkg.S/A"}
    trouble(breakers)
    assert (len(queue.take(2)), len(queue.take(2))) == (2, 1)


def test_of_a_breaker_without_a_registry() -> None:
    """A breaker without a registry has a queue, too."""
    breaker = CircuitBreaker("alone", BreakerPolicy(consecutive_failures=1), clock=FakeClock())
    queue = TrafficQueue(breaker, 100)
    queue.open()
    breaker.admit().failure()
    queue.close()
    breaker.reset()
    assert sorted(map(of, queue.take(100))) == [("call", "alone"), ("change", "alone")]
