"""An open breaker: for how long, what it refuses, and how it ends."""

from __future__ import annotations

import re
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Permit, Rejection, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.unit.breaker.calls import CallingClock, trip


def test_reading_changes_nothing(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """An open breaker whose period is over stays open until a call asks, however often it is read."""
    trip(breaker)
    clock.advance(1000)
    assert (breaker.state, breaker.retry_after, breaker.snapshot()["state"]) == (State.OPEN, 0.0, "open")
    assert breaker.generation == 1
    assert breaker.policy.reset_timeout == 10


@pytest.mark.parametrize(("waited", "passes"), [(9.75, False), (10.0, True)])
def test_first_call_after_the_open_period_passes(
    breaker: CircuitBreaker, clock: FakeClock, waited: float, passes: bool
) -> None:
    """A call is refused before the end of the open period, and passes from then on."""
    trip(breaker)
    clock.advance(waited)
    assert isinstance(breaker.try_admit(), Permit) == passes


@pytest.mark.parametrize(("drawn", "period"), [(0.0, 10.0), (0.5, 15.0), (0.999, 19.99)])
def test_jitter_makes_the_open_period_longer(drawn: float, period: float) -> None:
    """The open period is drawn from [t, t * (1 + jitter)]."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=1)
    breaker = CircuitBreaker("test", policy, clock=FakeClock(), random=lambda: drawn)
    breaker.admit().failure()
    assert breaker.retry_after == pytest.approx(period)


@pytest.mark.parametrize(
    ("first", "multiplier", "longest", "begin"), [(1, 10, 50, (1, 10, 50, 50)), (2, 2, 20, (2, 4, 8, 16, 20))]
)
def test_back_off_has_an_end(
    first: float, multiplier: float, longest: float, begin: tuple[float, ...], clock: FakeClock
) -> None:
    """The open period grows by the multiplier up to its maximum, however often probes fail; a close forgets it."""
    policy = BreakerPolicy(
        consecutive_failures=1,
        reset_timeout=first,
        reset_timeout_multiplier=multiplier,
        max_reset_timeout=longest,
        reset_timeout_jitter=0,
        half_open_max_calls=1,
    )
    breaker = CircuitBreaker("test", policy, clock=clock)
    periods = []
    for _ in range(1000):
        breaker.admit().failure()
        periods.append(breaker.retry_after)
        clock.advance(longest)
    assert periods[: len(begin)] == [pytest.approx(it) for it in begin]
    assert set(periods[len(begin) - 1 :]) == {longest}
    breaker.admit().success()
    breaker.admit().failure()
    assert breaker.retry_after == first


def test_period_without_growth_has_no_limit(clock: FakeClock) -> None:
    """`max_reset_timeout` limits growth alone: a longer `reset_timeout` that does not grow stays what it is."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=900, reset_timeout_jitter=0)
    breaker = CircuitBreaker("long", policy, clock=clock)
    breaker.admit().failure()
    clock.advance(900)
    breaker.admit().failure()
    assert breaker.retry_after == 900


def test_reason_is_forgotten_after_a_close(breaker: CircuitBreaker) -> None:
    """A closed breaker shows no reason, an open one the condition that opened it."""
    trip(breaker)
    assert breaker.snapshot()["reason"] == "consecutive_failures"
    breaker.reset()
    assert breaker.snapshot()["reason"] is None


def test_refusals_are_counted_apart(breaker: CircuitBreaker) -> None:
    """A refusal is counted under no status, and leaves the window as it is."""
    trip(breaker)
    before = breaker.snapshot()["window"]
    breaker.try_admit()
    assert breaker.tallies()["rejected", "breaker"] == 1
    assert breaker.snapshot()["window"] == before


def test_refusal_of_an_open_breaker_has_no_probes(breaker: CircuitBreaker) -> None:
    """Only the refusal of a half-open breaker has probes in flight."""
    trip(breaker)
    refused = breaker.try_admit()
    assert isinstance(refused, Rejection)
    assert refused.probes == 0


@pytest.mark.parametrize("changes_before", range(4))
def test_result_from_before_the_opening_is_stale(breaker: CircuitBreaker, changes_before: int) -> None:
    """The result of a call that was admitted before the breaker opened is counted as stale, and changes nothing."""
    for _ in range(changes_before):
        breaker.reset()
    late = [breaker.admit(), breaker.admit()]
    trip(breaker)
    events = EventRecorder(breaker)
    assert late[0].success()
    assert late[1].failure()
    assert (breaker.state, events.changes, breaker.in_flight) == (State.OPEN, [], 0)
    assert breaker.snapshot()["totals"]["stale"] == 2


@pytest.mark.parametrize("then", [State.CLOSED, State.OPEN])
def test_breaker_that_changes_while_a_call_asks(then: State) -> None:
    """A call that found the open period over passes or is refused by the state that has come in the meantime."""
    clock = CallingClock()
    policy = BreakerPolicy(consecutive_failures=2, reset_timeout=10, reset_timeout_jitter=0, half_open_max_calls=1)
    breaker = CircuitBreaker("changing", policy, clock=clock)
    trip(breaker)
    clock.advance(10)
    clock.then = breaker.reset if then is State.CLOSED else lambda: breaker.admit().failure()
    answer = breaker.try_admit("S/M", "context", timed=False)
    assert isinstance(answer, Permit) == (then is State.CLOSED)
    assert breaker.state is then
    if isinstance(answer, Permit):
        assert (answer.method, answer.context, answer.timed, answer.started) == ("S/M", "context", False, 10)
        clock.advance(1000)
        assert not answer.settled  # it has the lease of a call without a deadline, not that of a probe
        answer.failure("INTERNAL")
        assert breaker.snapshot()["window"]["failures"] == 1


@pytest.mark.parametrize("drawn", [[0.5, 1.0], [0.5, float("nan")], [0.5, "x"], [0.5]])
def test_random_that_fails_later(drawn: list[Any], clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """A `random` that goes wrong costs the jitter, never the opening, and is logged once."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout=10, reset_timeout_jitter=1)
    draw = iter(drawn)

    def unlucky() -> Any:
        return next(draw)

    breaker = CircuitBreaker("unlucky", policy, clock=clock, random=unlucky)
    breaker.admit().failure()
    assert (breaker.state, breaker.retry_after) == (State.OPEN, 10)
    (record,) = caplog.records
    assert re.fullmatch(
        r"random must return a number in \[0, 1\), and tests\.unit\.breaker\.test_open\..*unlucky:\d+ did not; "
        r"0 is taken \(logged once\)",
        record.getMessage(),
    )
    assert not record.exc_info


def test_random_may_be_zero(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """A `random` of 0 is valid: no jitter this time, and nothing is logged."""
    breaker = CircuitBreaker("lucky", BreakerPolicy(consecutive_failures=1), clock=clock, random=lambda: 0.0)
    breaker.admit().failure()
    assert breaker.retry_after == 1.0
    assert not caplog.records


@pytest.mark.parametrize(
    ("fields", "periods"),
    [
        ({}, [1, 2, 4, 8, 16, 32, 60, 60]),
        ({"reset_timeout": 60}, [60, 60, 60]),
        ({"reset_timeout": 5}, [5, 5, 5]),
        ({"reset_timeout": 5, "reset_timeout_multiplier": 3}, [5, 15, 45, 60]),
        ({"max_reset_timeout": 3}, [1, 2, 3, 3]),
    ],
)
def test_open_period_grows_unless_it_is_given(clock: FakeClock, fields: dict[str, float], periods: list[float]) -> None:
    """By default the first open period is a second and doubles while probes fail; one that is given stays as it is."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout_jitter=0, **fields)  # type: ignore[arg-type]
    breaker = CircuitBreaker("patient", policy, clock=clock)
    for period in periods:
        breaker.admit().failure()
        assert breaker.retry_after == pytest.approx(period)
        clock.advance(period)
