"""A closed breaker: what it counts, and what opens it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Outcome, State
from grpc_breaker.testing import FakeClock
from tests.unit.breaker.calls import end_calls, trip


@pytest.mark.parametrize("status", ["OK", "NOT_FOUND"])
def test_success_of_any_status_counts(breaker: CircuitBreaker, status: str) -> None:
    """A success is in the window and ends a row of failures, whatever its status."""
    breaker.admit().failure()
    for _ in range(3):
        breaker.admit().settle(Outcome.SUCCESS, status)
    assert breaker.snapshot()["window"] == {"calls": 4, "failures": 1, "slow": 0, "consecutive_failures": 0}


@pytest.mark.parametrize(("results", "opens"), [("sl", True), ("ssl", False), ("sf", True), ("ssf", False)])
def test_rate_that_is_just_reached(results: str, opens: bool, clock: FakeClock) -> None:
    """A rate opens the breaker when it is reached, and not below that."""
    policy = BreakerPolicy(minimum_calls=2, failure_rate=0.5, slow_call_duration=0.1, slow_call_rate=0.5)
    breaker = CircuitBreaker("rates", policy, clock=clock)
    end_calls(breaker, clock, results)
    assert (breaker.state is State.OPEN) == opens


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


def test_success_opens_nothing(clock: FakeClock) -> None:
    """A success that brings the window to `minimum_calls`, or comes when it forgets, opens nothing; the next failure
    does, if the rate is still reached then.
    """
    breaker = CircuitBreaker("filling", BreakerPolicy(minimum_calls=4, failure_rate=0.5), clock=clock)
    end_calls(breaker, clock, "ffss")
    assert breaker.state is State.CLOSED
    end_calls(breaker, clock, "f")
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


def test_failure_as_slow_as_allowed_is_not_slow(clock: FakeClock) -> None:
    """A failure is slow, too, when it took longer than `slow_call_duration`, and not when it took exactly as long."""
    breaker = CircuitBreaker("it", BreakerPolicy(failure_threshold=9, slow_call_duration=1), clock=clock)
    for duration, slow in ((1, 0), (1.25, 1)):
        permit = breaker.admit()
        clock.advance(duration)
        permit.failure()
        assert breaker.snapshot()["window"]["slow"] == slow


@pytest.mark.parametrize("window_calls", [None, 4])
def test_slow_calls_that_the_window_has_forgotten(clock: FakeClock, window_calls: int | None) -> None:
    """Slow calls from before the window do not open it: its last four results are one slow call of four."""
    policy = BreakerPolicy(
        minimum_calls=4, slow_call_duration=1, slow_call_rate=0.5, window_seconds=10, window_calls=window_calls
    )
    breaker = CircuitBreaker("it", policy, clock=clock)
    for durations in ((2, 2, 2), (0, 0, 0, 2)):
        for duration in durations:
            permit = breaker.admit()
            clock.advance(duration)
            permit.success()
        assert breaker.state is State.CLOSED
        clock.advance(20)


def test_slow_calls_on_a_clock_below_zero() -> None:
    """A clock may begin anywhere, below zero, too: how long a call took is told from two of its times."""
    clock = FakeClock(-100)
    breaker = CircuitBreaker("it", BreakerPolicy(slow_call_duration=1), clock=clock)
    permit = breaker.admit()
    clock.advance(2)
    permit.success()
    assert breaker.snapshot()["window"]["slow"] == 1


def test_clock_that_stands_still(breaker: CircuitBreaker) -> None:
    """With a clock that stands still calls pass, results count, and it opens; only time-outs never end."""
    for _ in range(100):
        breaker.admit().success()
    trip(breaker)
    assert breaker.snapshot()["window"]["calls"] == 102
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("status", ["OK", "NOT_FOUND"])
def test_success_at_the_end_of_a_bucket_is_in_the_next(clock: FakeClock, status: str) -> None:
    """A success at the very moment a bucket of the window ends belongs to the next bucket."""
    breaker = CircuitBreaker("prices", BreakerPolicy(window_seconds=10), clock=clock)
    breaker.admit().success()
    clock.advance(1)
    breaker.admit().settle(Outcome.SUCCESS, status)
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
        permit.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0)
    assert breaker.snapshot()["window"] == {"calls": 8, "failures": 8, "slow": 0, "consecutive_failures": 1}
    clock.advance(1)
    breaker.admit().settle(Outcome.FAILURE, "UNAVAILABLE", incident=0)
    assert breaker.state is State.OPEN


def test_one_incident_opens_nothing_by_itself(clock: FakeClock) -> None:
    """Twenty calls lost with one connection reach every rate, and open nothing; a call that fails after them does."""
    policy = BreakerPolicy(failure_rate=0.5, failure_threshold=10, minimum_calls=20)
    for window_calls in (None, 50):
        breaker = CircuitBreaker("incident", replace(policy, window_calls=window_calls), clock=clock)
        permits = [breaker.admit() for _ in range(20)]
        clock.advance(1)
        for permit in permits:
            permit.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0)
        assert breaker.snapshot()["window"]["failures"] == 20
        breaker.admit().success()
        assert breaker.state is State.CLOSED
        clock.advance(1)
        breaker.admit().settle(Outcome.FAILURE, "UNAVAILABLE", incident=0)
        assert breaker.state is State.OPEN


@pytest.mark.parametrize("window_calls", [None, 50])
def test_calls_that_a_server_never_took_are_one_failure(clock: FakeClock, window_calls: int | None) -> None:
    """Of the calls that a server left unprocessed as it ended a connection, one counts, for every trip condition."""
    policy = BreakerPolicy(failure_rate=0.5, failure_threshold=10, minimum_calls=20, window_calls=window_calls)
    breaker = CircuitBreaker("goaway", policy, clock=clock)
    for _ in range(9):
        permits = [breaker.admit() for _ in range(32)]
        clock.advance(0.25)
        for permit in permits[:10]:
            permit.success()
        for permit in permits[10:]:
            permit.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0.25, counts_once=True)
        clock.advance(0.25)
    assert breaker.state is State.CLOSED
    assert breaker.tallies() == {
        ("success", "OK"): 90,
        ("failure", "UNAVAILABLE"): 9,
        ("ignored", "UNAVAILABLE"): 9 * 21,
    }


@pytest.mark.parametrize(
    "policy",
    [
        BreakerPolicy(failure_rate=0.5, minimum_calls=100, window_seconds=10),
        BreakerPolicy(failure_threshold=50, window_seconds=10),
        BreakerPolicy(failure_rate=0.5, minimum_calls=100, window_calls=100),
    ],
    ids=["rate", "threshold", "rate of calls"],
)
def test_server_that_takes_no_call_at_all_is_found_by_every_condition(policy: BreakerPolicy, clock: FakeClock) -> None:
    """Where two incidents in a row have no success between them, each call that was never taken counts."""
    breaker = CircuitBreaker("goaway", policy, clock=clock)
    called = 0
    while breaker.state is State.CLOSED and called < 5000:
        permits = [breaker.admit() for _ in range(10)]
        called += len(permits)
        clock.advance(0.125)
        for permit in permits:
            permit.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0.25, counts_once=True)
    assert breaker.state is State.OPEN
    assert called < 200, "about as many as the condition needs"


def test_stream_that_was_answered_and_is_said_to_be_never_taken(clock: FakeClock) -> None:
    """One more call that a server says that it never took is ignored, a stream that had an answer too: no success."""
    breaker = CircuitBreaker("goaway", clock=clock)
    permits = [breaker.admit(timed=False) for _ in range(2)]
    permits[1].answered()
    for permit in permits:
        permit.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0.25, counts_once=True)
    assert breaker.tallies() == {("failure", "UNAVAILABLE"): 1, ("ignored", "UNAVAILABLE"): 1}
    assert breaker.snapshot()["window"] == {"calls": 1, "failures": 1, "slow": 0, "consecutive_failures": 1}


def test_server_that_never_takes_a_call_opens(clock: FakeClock) -> None:
    """Where connection after connection is ended before it served a call, each is one more failure in a row."""
    breaker = CircuitBreaker("goaway", BreakerPolicy(consecutive_failures=5), clock=clock)
    called = 0
    while breaker.state is State.CLOSED and called < 100:
        called += 1
        permit = breaker.admit()
        clock.advance(0.0625)
        permit.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0.25, counts_once=True)
    assert called == 1 + 4 * 5, "one, and then each that began a quarter of a second after the one before that counted"


def test_answer_ends_a_row(clock: FakeClock) -> None:
    """A stream that was answered and is then cut, day after day, is never in a row with the cut before."""
    breaker = CircuitBreaker("watch", BreakerPolicy(consecutive_failures=2), clock=clock)
    for _ in range(5):
        permit = breaker.admit()
        permit.answered()
        clock.advance(86_400)
        permit.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0)
    assert breaker.state is State.CLOSED
    assert breaker.tallies() == {("failure", "UNAVAILABLE"): 5}


@pytest.mark.parametrize("window_calls", [None, 50])
def test_answered_streams_that_end_together_are_one_failure(clock: FakeClock, window_calls: int | None) -> None:
    """Of the streams that had an answer and are cut by one incident, one counts, for every trip condition: a deploy cuts
    them three times in a row, and each time they are answered again.
    """
    policy = BreakerPolicy(failure_rate=0.5, failure_threshold=5, minimum_calls=5, window_calls=window_calls)
    breaker = CircuitBreaker("watch", policy, clock=clock)
    for _ in range(3):
        streams = [breaker.admit(timed=False) for _ in range(40)]
        for stream in streams:
            stream.answered()
        clock.advance(5)
        for stream in streams:
            stream.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0, counts_once=True)
    assert breaker.state is State.CLOSED
    assert breaker.tallies() == {("failure", "UNAVAILABLE"): 3, ("ignored", "UNAVAILABLE"): 3 * 39}


def test_answer_is_the_success_between_two_failures(breaker: CircuitBreaker) -> None:
    """The answer of a stream that is still under way ends the row of failures of the calls beside it."""
    stream = breaker.admit()
    breaker.admit().failure()
    stream.answered()
    assert breaker.snapshot()["window"]["consecutive_failures"] == 0
    breaker.admit().failure()
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("window_calls", [None, 50])
def test_slow_success_ends_a_row(clock: FakeClock, window_calls: int | None) -> None:
    """A slow success ends a row of failures, in a window of time and in one of calls."""
    policy = BreakerPolicy(consecutive_failures=2, slow_call_duration=0.1, window_calls=window_calls)
    breaker = CircuitBreaker("slow", policy, clock=clock)
    end_calls(breaker, clock, "flf")
    assert breaker.snapshot()["window"] == {"calls": 3, "failures": 2, "slow": 1, "consecutive_failures": 1}


@pytest.mark.parametrize(
    ("incident", "after", "row"), [(0.0, 0.0, 2), (0.25, 0.0, 1), (0.25, 0.125, 1), (0.25, 0.25, 2)]
)
def test_incident_has_an_end(clock: FakeClock, incident: float, after: float, row: int) -> None:
    """A call that was admitted at the very end of an incident, or later, is one more failure in a row."""
    breaker = CircuitBreaker("incident", BreakerPolicy(consecutive_failures=3), clock=clock)
    clock.advance(10)
    breaker.admit().settle(Outcome.FAILURE, "UNAVAILABLE", incident=incident)
    clock.advance(after)
    permit = breaker.admit()
    clock.advance(1)
    permit.settle(Outcome.FAILURE, "UNAVAILABLE", incident=incident)
    assert breaker.snapshot()["window"]["consecutive_failures"] == row


@pytest.mark.parametrize("window_calls", [None, 50])
def test_calls_that_are_given_up_end_an_old_row(clock: FakeClock, window_calls: int | None) -> None:
    """Polls that their caller gives up where there is no news have no success: failures of five days open nothing, and
    those that come within a window of each other do.
    """
    breaker = CircuitBreaker("polls", BreakerPolicy(consecutive_failures=3, window_calls=window_calls), clock=clock)
    for _ in range(5):
        clock.advance(86_400)
        breaker.admit().ignore()
        breaker.admit().failure("UNAVAILABLE")
        assert breaker.snapshot()["window"]["consecutive_failures"] == 1
    for _ in range(2):
        clock.advance(30)
        breaker.admit().ignore()
        breaker.admit().failure("UNAVAILABLE")
    assert breaker.state is State.OPEN


def test_silent_streams_of_many_days_count_once(clock: FakeClock) -> None:
    """Of the streams that are lost with one connection, one counts each day, though nothing answers between."""
    breaker = CircuitBreaker("watch", BreakerPolicy(), clock=clock)
    for day in range(1, 8):
        clock.advance(86_400)
        streams = [breaker.admit(timed=False) for _ in range(40)]
        clock.advance(5)
        streams.pop().settle(Outcome.IGNORED, "CANCELLED")
        for stream in streams:
            stream.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0, counts_once=True)
        assert breaker.tallies()["failure", "UNAVAILABLE"] == day
    assert breaker.state is State.CLOSED


def test_quiet_method_of_a_dead_server_opens(clock: FakeClock) -> None:
    """Failures are a row, however far they are from each other, where no call ends otherwise."""
    breaker = CircuitBreaker("quiet", BreakerPolicy(), clock=clock)
    for _ in range(5):
        clock.advance(600)
        breaker.admit().failure("UNAVAILABLE")
    assert breaker.state is State.OPEN


def test_answered_call_that_is_given_up_is_a_success(breaker: CircuitBreaker) -> None:
    """A call that is ignored in the end, after an answer came, is a success: the caller had what it wanted."""
    permit = breaker.admit()
    permit.answered()
    permit.settle(Outcome.IGNORED, "CANCELLED")
    assert breaker.tallies() == {("success", "CANCELLED"): 1}


def test_answer_of_a_call_that_is_over_changes_nothing(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """An answer after the end of a call, after its lease, or of a generation before, ends no row."""
    over, given_up, old = breaker.admit(), breaker.admit(timeout=1), breaker.admit()
    over.success()
    breaker.disable()
    breaker.reset()
    clock.advance(10)
    breaker.admit().failure()
    for permit in (over, given_up, old):
        permit.answered()
    assert breaker.snapshot()["window"]["consecutive_failures"] == 1


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
    early.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0)
    breaker.admit().success()
    clock.advance(1)
    late.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0)
    assert breaker.snapshot()["window"]["consecutive_failures"] == 0
