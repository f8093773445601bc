"""A ramp: after probes have closed the breaker, the share of the calls that is admitted grows to all."""

from __future__ import annotations

from typing import Any

import pytest

from grpc_breaker import CircuitOpenError, Permit, Reason, RefusalReason, State
from grpc_breaker.testing import EventRecorder
from tests.support.decisions import METHOD, Guarded, quick


def closed_again(probes: int = 1, **policy: Any) -> Guarded:
    """A method whose breaker has just been closed by its probes; chance refuses what may be refused."""
    method = Guarded(quick(ramp=10.0, half_open_max_calls=probes, **policy))
    method.fail()
    method.clock.advance(10)
    method.succeed(probes)
    assert method.breaker.state is State.CLOSED
    method.chance.next = 0.9999
    return method


def test_as_many_calls_as_there_were_probes_always_pass() -> None:
    """What the server has just borne it bears again: so many calls at once pass whatever chance says."""
    method = closed_again(probes=3)
    for _ in range(5):
        permits = [method.admit() for _ in range(3)]
        assert isinstance(method.refusal(), CircuitOpenError)
        for permit in permits:
            permit.success()


@pytest.mark.parametrize("passed", [0.0, 2.5, 5.0, 7.5, 9.75])
def test_share_grows(passed: float) -> None:
    """Of the others a share passes that grows with the time since the close."""
    method = closed_again()
    method.clock.advance(passed)
    method.admit()
    method.chance.next = passed / 10
    error = method.refusal()
    assert error is not None
    assert f"admits {10 * passed:.0f} % of the calls" in str(error)
    method.chance.next = passed / 10 - 0.001
    if passed:
        assert method.refusal() is None


def test_refusal_says_so() -> None:
    """A call that is refused is told the share, and that it is the breaker's."""
    method = closed_again()
    method.clock.advance(2.5)
    method.admit()
    error = method.refusal()
    assert error is not None
    assert (error.reason, error.state, error.condition, error.retry_after) == (
        RefusalReason.BREAKER,
        State.CLOSED,
        Reason.CONSECUTIVE_FAILURES,
        0.0,
    )
    assert str(error) == "circuit breaker closed for pkg.S/M; admits 25 % of the calls after an outage"


def test_refusal_shows_the_policys_code() -> None:
    """A refused RPC shows the code of the breaker's refusals; it is counted as one."""
    method = closed_again(refusal_code="ABORTED")
    recorder = EventRecorder(method.breakers)
    method.admit()
    method.refusal()
    (rejection,) = recorder.rejections
    assert (rejection.code, rejection.probes) == ("ABORTED", 0)
    assert method.breaker.tallies()["rejected", "breaker"] == 1


def test_over_at_the_end() -> None:
    """When its time is over all calls pass, and chance is not asked any more."""
    method = closed_again()
    method.clock.advance(10)
    asked = method.chance.asked
    assert method.passed(50) == 50
    assert method.chance.asked == asked


def test_results_count_during_the_ramp() -> None:
    """The breaker is closed: a condition that holds opens it, for its first open period."""
    method = closed_again(reset_timeout_multiplier=2)
    method.fail()
    assert (method.breaker.state, method.breaker.retry_after) == (State.OPEN, 10)


def test_opening_and_closing_begins_another() -> None:
    """Each close by probes has a ramp of its own, from the beginning."""
    method = closed_again()
    method.clock.advance(9)
    method.chance.next = 0.0
    method.fail()
    method.clock.advance(10)
    method.succeed()
    method.chance.next = 0.5
    method.admit()
    assert method.refusal()


def test_reset_ends_it() -> None:
    """After an operator's reset all calls pass."""
    method = closed_again()
    method.breaker.reset()
    assert method.passed(50) == 50


def test_forced_open_ends_it() -> None:
    """What is forced open refuses, and after its reset all calls pass."""
    method = closed_again()
    method.breaker.force_open()
    error = method.refusal()
    assert error is not None
    assert error.retry_after is None
    method.breaker.reset()
    assert method.passed(50) == 50


def test_disabled_ends_it() -> None:
    """What an operator disables lets all calls pass."""
    method = closed_again()
    method.breaker.disable()
    assert method.passed(50) == 50


def test_no_ramp_after_an_operators_close() -> None:
    """Only a close by probes has a ramp: an operator who closes an open breaker knows better."""
    method = Guarded(quick(ramp=10))
    method.fail()
    method.breaker.reset()
    method.chance.next = 0.9999
    assert method.passed(50) == 50


def test_breaker_that_never_opened_has_none() -> None:
    """The first generation admits all calls."""
    method = Guarded(quick(ramp=10))
    method.chance.next = 0.9999
    assert method.passed(50) == 50


def test_another_policy_leaves_it() -> None:
    """A ramp goes on when a policy without one comes into force, and shows the new code."""
    method = closed_again()
    method.breaker.reconfigure(quick(refusal_code="ABORTED"))
    method.admit()
    recorder = EventRecorder(method.breaker)
    assert method.refusal()
    assert recorder.rejections[0].code == "ABORTED"
    method.clock.advance(10)
    assert method.refusal() is None


def test_calls_that_are_in_flight_still_count_as_those_at_once() -> None:
    """Calls from before the outage occupy the server, too."""
    method = Guarded(quick(ramp=10))
    old = method.admit()
    method.fail()
    method.clock.advance(10)
    method.succeed()
    method.chance.next = 0.9999
    assert method.refusal()
    old.success()
    assert isinstance(method.breaker.try_admit(METHOD), Permit)


def test_calls_whose_lease_has_ended_are_not_those_at_once() -> None:
    """A call that was never heard of again occupies nothing once it is given up, though no other call was admitted."""
    method = Guarded(quick(ramp=10))
    method.admit(timeout=6)
    method.fail()
    method.clock.advance(10)
    method.succeed()
    method.chance.next = 0.9999
    assert method.refusal()
    method.clock.advance(1)
    assert method.breakers.wait_until_admitted(METHOD, 0)
    assert isinstance(method.breaker.try_admit(METHOD), Permit)


def test_waiting_is_told_of_the_ramp() -> None:
    """A wait is over as soon as a call would be admitted."""
    method = closed_again()
    assert method.breakers.wait_until_admitted(METHOD, 0)
    method.admit()
    assert not method.breakers.wait_until_admitted(METHOD, 0)
    method.clock.advance(10)
    assert method.breakers.wait_until_admitted(METHOD, 0)
