"""A forked child: the calls of its parent are not its own."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from grpc_breaker import BreakerRegistry, CircuitBreaker, Rejection, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.child import in_child
from tests.unit.breaker.calls import probe_of, trip

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def test_child_has_nothing_in_flight(breaker: CircuitBreaker) -> None:
    """A child begins with nothing in flight, and what its parent's calls end with counts for nothing in it."""
    inherited = breaker.admit()

    def child() -> list[Any]:
        before = breaker.in_flight
        taken = inherited.failure()
        breaker.admit().success()
        snapshot = breaker.snapshot()
        return [before, taken, snapshot["totals"]["success"], snapshot["totals"]["failure"], breaker.in_flight]

    assert in_child(child) == [0, False, 1, 0, 0]
    assert breaker.in_flight == 1
    assert inherited.success()


def test_child_keeps_the_state(breaker: CircuitBreaker) -> None:
    """A child of an open breaker's process refuses with the reason, the seconds and the code of its parent."""
    trip(breaker)

    def child() -> list[Any]:
        refusal = breaker.try_admit()
        assert isinstance(refusal, Rejection)
        return [breaker.state, refusal.condition, refusal.retry_after, refusal.code]

    assert in_child(child) == ["open", "consecutive_failures", 10.0, "UNAVAILABLE"]


def test_child_of_a_half_open_breaker_probes_by_itself(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The slot of a parent's probe is free in the child, whose own probe closes the breaker there and not here."""
    inherited = probe_of(breaker, clock)

    def child() -> list[Any]:
        late = inherited.failure()
        with breaker.admit() as probe:
            assert probe.is_probe
        return [late, breaker.state]

    assert in_child(child) == [False, "closed"]
    assert (breaker.state, inherited.is_probe) == (State.HALF_OPEN, True)
    assert inherited.success()
    assert breaker.state is State.CLOSED


def test_child_forked_inside_a_block(breaker: CircuitBreaker) -> None:
    """The end of a block that the parent began says nothing in the child."""
    with breaker.admit():
        seen = in_child(lambda: child_in_a_block(breaker))
    assert seen == [0, 1]
    assert breaker.snapshot()["totals"]["success"] == 1


def child_in_a_block(breaker: CircuitBreaker) -> list[int]:
    """Make a call of the child's own."""
    before = breaker.in_flight
    with breaker.admit():
        pass
    return [before, breaker.snapshot()["totals"]["success"]]


def test_child_forked_while_a_listener_runs(breaker: CircuitBreaker) -> None:
    """A child forked while another thread delivers an event delivers its own."""
    entered, leave = threading.Event(), threading.Event()
    parent = os.getpid()

    def listener(change: Any) -> None:
        if os.getpid() == parent:
            entered.set()
            leave.wait(10)

    breaker.on_state_change(listener)
    thread = threading.Thread(target=breaker.force_open)
    thread.start()
    assert entered.wait(10)

    def child() -> list[Any]:
        events = EventRecorder(breaker)
        breaker.reset()
        breaker.disable()
        return events.states

    try:
        assert in_child(child)[-2:] == ["closed", "disabled"]
    finally:
        leave.set()
        thread.join(10)


def test_listener_that_forks(breaker: CircuitBreaker) -> None:
    """A child forked by a listener delivers the changes that it makes."""
    seen: list[Any] = []

    def listener(change: Any) -> None:
        if change.state is State.OPEN:
            seen.append(in_child(child))

    def child() -> list[Any]:
        breaker.force_open()
        return [breaker.state]

    breaker.on_state_change(listener)
    trip(breaker)
    assert seen == [["forced_open"]]


def test_child_counts_its_own_calls(clock: FakeClock) -> None:
    """A child reports the calls of its own, not those that its parent made, also of breakers that were evicted."""
    breakers = BreakerRegistry(max_breakers=1, clock=clock)
    for name in ("pkg.S/Evicted", "pkg.S/Kept"):
        breakers[name].admit().success()

    def child() -> list[Any]:
        before = sum(calls for *_, calls in breakers.counts.tallies())
        breakers["pkg.S/Kept"].admit().failure("UNAVAILABLE")
        return [before, *breakers.counts.tallies()]

    assert in_child(child) == [0, ["other", "failure", "UNAVAILABLE", 1]]
    assert sum(calls for *_, calls in breakers.counts.tallies()) == 2
