"""What an operator does to a breaker: forced open, disabled, reset, and another policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, Permit, Reason, Rejection, State
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.unit.breaker.calls import end_calls, probe_of, trip


def test_forced_open_until_an_operator_ends_it(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A breaker that was forced open refuses every call for any length of time."""
    breaker.force_open()
    clock.advance(1e9)
    rejection = breaker.try_admit("", "its context")
    assert isinstance(rejection, Rejection)
    assert (rejection.state, rejection.retry_after, rejection.condition) == (
        State.FORCED_OPEN,
        None,
        Reason.FORCED_OPEN,
    )
    assert (rejection.context, rejection.code) == ("its context", "UNAVAILABLE")
    assert repr(rejection) == "<Rejection: circuit breaker forced_open for prices; until an operator resets it>"
    assert breaker.retry_after is None
    breaker.reset()
    assert isinstance(breaker.try_admit(), Permit)


def test_result_of_a_probe_does_not_end_a_forced_state(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A probe that succeeds after the breaker was forced open is stale."""
    probe = probe_of(breaker, clock)
    breaker.force_open()
    assert probe.success()
    assert breaker.state is State.FORCED_OPEN
    assert breaker.snapshot()["totals"]["stale"] == 1


def test_disabled_breaker_counts_and_never_trips(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A disabled breaker lets every call pass, counts its result, and stays disabled."""
    breaker.disable()
    end_calls(breaker, clock, "ffffsf")
    assert breaker.state is State.DISABLED
    snapshot = breaker.snapshot()
    assert (snapshot["totals"]["failure"], snapshot["totals"]["success"]) == (5, 1)
    assert snapshot["window"] == {"calls": 6, "failures": 5, "slow": 0, "consecutive_failures": 1}
    breaker.admit().failure("UNAVAILABLE", "ill")
    assert breaker.snapshot()["last_failures"][-1] == {"status": "UNAVAILABLE", "details": "ill"}
    breaker.reset()
    assert (breaker.state, breaker.snapshot()["window"]["calls"]) == (State.CLOSED, 0)


@pytest.mark.parametrize("commands", [["disable"], ["reset"], ["disable", "reset"], ["force_open", "reset", "disable"]])
def test_breaker_keeps_its_name(breaker: CircuitBreaker, commands: list[str]) -> None:
    """A refusal names the breaker, whatever an operator did to it before."""
    for command in commands:
        getattr(breaker, command)()
    breaker.force_open()
    refusal = breaker.try_admit()
    assert isinstance(refusal, Rejection)
    assert refusal.breaker == "prices"


def test_operators_event_names_no_call(breaker: CircuitBreaker) -> None:
    """The event of an operator's command has no method, no context and no status."""
    events = EventRecorder(breaker)
    breaker.force_open()
    (change,) = events.changes
    assert (change.method, change.context, change.status, change.details) == ("", None, "", "")
    assert type(change.time) is float


def test_command_given_twice_is_one_change(breaker: CircuitBreaker) -> None:
    """Forcing open what is forced open, and disabling what is disabled, is no change."""
    events = EventRecorder(breaker)
    for command in (breaker.force_open, breaker.disable):
        command()
        command()
    assert events.states == [State.FORCED_OPEN, State.DISABLED]


def test_reset_of_a_closed_breaker_forgets(breaker: CircuitBreaker) -> None:
    """Resetting a closed breaker is no change of state: its window is empty, and results of earlier calls are stale."""
    events = EventRecorder(breaker)
    late = breaker.admit()
    breaker.admit().failure()
    generation = breaker.generation
    breaker.reset()
    assert (breaker.snapshot()["window"]["calls"], breaker.snapshot()["last_failures"]) == (0, [])
    assert breaker.generation > generation
    assert breaker.in_flight == 1
    assert late.failure()
    assert (breaker.in_flight, breaker.snapshot()["totals"]["stale"], events.changes) == (0, 1, [])


# ── Another policy ────────────────────────────────────────────────────────────────────────────────────────────────


def test_new_policy_keeps_the_window(breaker: CircuitBreaker) -> None:
    """Another policy with the same window keeps what was counted, and is judged from the next result."""
    breaker.admit().failure()
    breaker.reconfigure(BreakerPolicy(consecutive_failures=None, failure_threshold=2, refusal_code="ABORTED"))
    breaker.admit().success()
    assert breaker.state is State.CLOSED
    breaker.admit().failure()
    assert breaker.snapshot()["reason"] == "failure_threshold"
    rejection = breaker.try_admit()
    breaker.reconfigure(BreakerPolicy())
    assert isinstance(rejection, Rejection)
    assert rejection.code == "ABORTED"


def test_new_conditions_hold_for_the_next_result(clock: FakeClock) -> None:
    """The next failure is judged by the new policy, with what the window holds."""
    breaker = CircuitBreaker("quiet", BreakerPolicy(minimum_calls=10), clock=clock)
    end_calls(breaker, clock, "fs")
    breaker.reconfigure(BreakerPolicy(failure_threshold=2))
    end_calls(breaker, clock, "f")
    assert breaker.state is State.OPEN


def test_new_policy_decides_what_is_slow(clock: FakeClock) -> None:
    """A call in flight is slow by the policy in force when it ends."""
    breaker = CircuitBreaker("quiet", BreakerPolicy(minimum_calls=1), clock=clock)
    permit = breaker.admit()
    breaker.reconfigure(BreakerPolicy(minimum_calls=1, slow_call_duration=1, slow_call_rate=1.0))
    clock.advance(2)
    permit.success()
    assert breaker.snapshot()["reason"] == "slow_call_rate"


def test_new_refusal_code_shows_at_once(breaker: CircuitBreaker) -> None:
    """An open breaker refuses with the code of the policy in force, for the reason that opened it."""
    trip(breaker)
    breaker.reconfigure(replace(breaker.policy, refusal_code="ABORTED"))
    refusal = breaker.try_admit()
    assert isinstance(refusal, Rejection)
    assert (refusal.condition, refusal.code) == (Reason.CONSECUTIVE_FAILURES, "ABORTED")
    assert repr(refusal) == "<Rejection: circuit breaker open for prices; next probe in 10.0 s>"


def test_new_window_begins_empty(breaker: CircuitBreaker) -> None:
    """Another window shape begins empty; an open breaker stays open."""
    trip(breaker)
    breaker.reconfigure(BreakerPolicy(window_calls=20))
    assert breaker.snapshot()["window"]["calls"] == 0
    assert (breaker.state, breaker.retry_after) == (State.OPEN, 10.0)
    with pytest.raises(TypeError, match="must be a BreakerPolicy"):
        breaker.reconfigure(None)  # type: ignore[arg-type]


def test_seconds_do_not_shape_a_window_of_calls() -> None:
    """A window of the last calls stays, whatever `window_seconds` says."""
    breaker = CircuitBreaker("calls", BreakerPolicy(window_calls=50))
    breaker.admit().success()
    breaker.reconfigure(BreakerPolicy(window_calls=50, window_seconds=1.0))
    assert breaker.snapshot()["window"]["calls"] == 1


def test_new_policy_leaves_calls_in_flight_alone(breaker: CircuitBreaker) -> None:
    """The result of a call that was admitted under another policy counts."""
    permit = breaker.admit()
    breaker.reconfigure(BreakerPolicy(consecutive_failures=1))
    assert permit.policy is breaker.policy
    assert permit.failure()
    assert breaker.state is State.OPEN
