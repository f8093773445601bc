"""A closed breaker: what it counts, and what opens it."""

from __future__ import annotations

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.unit.breaker.calls import end_calls, trip


@pytest.mark.parametrize("results", ["s", "fs", "ffsfs", "ls", "fffss"])
def test_successes_that_open_nothing_are_counted(results: str, clock: FakeClock) -> None:
    """Successes after failed and slow calls are in the window, and open nothing while no rate is reached."""
    policy = BreakerPolicy(minimum_calls=10, consecutive_failures=4, slow_call_duration=0.1)
    breaker = CircuitBreaker("quiet", policy, clock=clock)
    end_calls(breaker, clock, f"{results}ss")
    window = breaker.snapshot()["window"]
    assert (window["calls"], window["failures"], window["slow"]) == (
        len(results) + 2,
        results.count("f"),
        results.count("l"),
    )
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize(("results", "reason"), [("ffss", "failure_rate"), ("llss", "slow_call_rate")])
def test_success_that_fills_the_window_can_open_it(results: str, reason: str, clock: FakeClock) -> None:
    """The success that brings the window to `minimum_calls` makes the rate count, though it lowers it."""
    policy = BreakerPolicy(minimum_calls=4, failure_rate=0.5, slow_call_duration=0.1)
    breaker = CircuitBreaker("filling", policy, clock=clock)
    events = EventRecorder(breaker)
    end_calls(breaker, clock, results)
    assert [change.reason for change in events.changes] == [reason]


def test_success_can_open_it_when_the_window_forgets(clock: FakeClock) -> None:
    """A success that comes when earlier successes have left the window can leave a rate of failures that opens it."""
    policy = BreakerPolicy(minimum_calls=4, consecutive_failures=None, window_seconds=10)
    breaker = CircuitBreaker("forgetting", policy, clock=clock)
    end_calls(breaker, clock, "ssssss")
    clock.advance(5)
    end_calls(breaker, clock, "fsffs")
    assert breaker.state is State.CLOSED
    clock.advance(5.5)
    end_calls(breaker, clock, "s")
    assert breaker.snapshot()["reason"] == "failure_rate"


def test_success_ends_a_row_of_failures(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Only failures with no success between them count as consecutive."""
    end_calls(breaker, clock, "fsfsf")
    assert breaker.state is State.CLOSED
    assert breaker.snapshot()["window"]["consecutive_failures"] == 1
    end_calls(breaker, clock, "f")
    assert breaker.snapshot()["reason"] == "consecutive_failures"


def test_ignored_result_leaves_the_window_as_it_is(breaker: CircuitBreaker) -> None:
    """An ignored result neither enters the window nor ends a row of failures."""
    breaker.admit().failure()
    breaker.admit().ignore()
    window = breaker.snapshot()["window"]
    assert window == {"calls": 1, "failures": 1, "slow": 0, "consecutive_failures": 1}
    breaker.admit().failure()
    assert breaker.state is State.OPEN


def test_untimed_calls_are_never_slow(clock: FakeClock) -> None:
    """A call that was admitted with `timed=False`, a stream, is not slow however long it takes."""
    policy = BreakerPolicy(slow_call_duration=1, slow_call_rate=0.5, minimum_calls=1)
    breaker = CircuitBreaker("test", policy, clock=clock)
    permit = breaker.admit(timed=False)
    clock.advance(100)
    permit.success()
    assert breaker.state is State.CLOSED
    permit = breaker.admit()
    clock.advance(2)
    assert permit.elapsed == 2.0
    permit.success()
    assert breaker.snapshot()["reason"] == "slow_call_rate"


def test_call_as_slow_as_allowed_is_not_slow(clock: FakeClock) -> None:
    """A call is slow when it took longer than `slow_call_duration`, not when it took exactly as long."""
    policy = BreakerPolicy(slow_call_duration=1, slow_call_rate=0.5, minimum_calls=1)
    breaker = CircuitBreaker("test", policy, clock=clock)
    permit = breaker.admit()
    clock.advance(1)
    permit.success()
    assert (breaker.state, breaker.snapshot()["window"]["slow"]) == (State.CLOSED, 0)


def test_clock_that_stands_still(breaker: CircuitBreaker) -> None:
    """With a clock that stands still calls pass, results count, and it opens; only time-outs never end."""
    for _ in range(100):
        breaker.admit().success()
    trip(breaker)
    assert breaker.snapshot()["window"]["calls"] == 102
    assert breaker.state is State.OPEN


def test_success_at_the_end_of_a_bucket_is_in_the_next(clock: FakeClock) -> None:
    """A success at the very moment a bucket of the window ends belongs to the next bucket."""
    breaker = CircuitBreaker("prices", BreakerPolicy(window_seconds=10), clock=clock)
    breaker.admit().success()
    clock.advance(1)
    breaker.admit().success()
    clock.advance(9.5)
    assert breaker.snapshot()["window"]["calls"] == 1


def test_closed_breaker_has_nothing_to_wait_for(breaker: CircuitBreaker) -> None:
    """A call may pass at once: `retry_after` is 0."""
    assert breaker.retry_after == 0


def test_one_incident_is_one_failure_in_a_row(clock: FakeClock) -> None:
    """Calls that one lost connection fails together are one failure in a row; what is called after it is another."""
    breaker = CircuitBreaker("incident", BreakerPolicy(consecutive_failures=2), clock=clock)
    permits = [breaker.admit() for _ in range(8)]
    clock.advance(1)
    for permit in permits:
        permit.settle(Outcome.FAILURE, "UNAVAILABLE", shared=True)
    assert breaker.snapshot()["window"] == {"calls": 8, "failures": 8, "slow": 0, "consecutive_failures": 1}
    clock.advance(1)
    breaker.admit().settle(Outcome.FAILURE, "UNAVAILABLE", shared=True)
    assert breaker.state is State.OPEN


def test_failures_of_their_own_count_each(clock: FakeClock) -> None:
    """Calls that fail each by themselves, as on deadlines of a server that hangs, are so many failures in a row."""
    breaker = CircuitBreaker("hung", BreakerPolicy(consecutive_failures=3), clock=clock)
    permits = [breaker.admit() for _ in range(3)]
    clock.advance(1)
    for permit in permits:
        permit.settle(Outcome.FAILURE, "DEADLINE_EXCEEDED")
    assert breaker.state is State.OPEN


def test_late_failure_of_an_incident_begins_no_row(clock: FakeClock) -> None:
    """A success ends the row; a failure of the incident before it that comes late begins no other."""
    breaker = CircuitBreaker("late", BreakerPolicy(consecutive_failures=2), clock=clock)
    early, late = breaker.admit(), breaker.admit()
    clock.advance(1)
    early.settle(Outcome.FAILURE, "UNAVAILABLE", shared=True)
    breaker.admit().success()
    clock.advance(1)
    late.settle(Outcome.FAILURE, "UNAVAILABLE", shared=True)
    assert breaker.snapshot()["window"]["consecutive_failures"] == 0
