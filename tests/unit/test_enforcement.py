"""`enforcement_percentage`: refusals of the breaker that are seen, and calls that pass all the same."""

from __future__ import annotations

from typing import Any

import pytest

from grpc_breaker import BulkheadFullError, CallRefusedError, CircuitOpenError, MethodPolicy, Outcome, RateLimit, State
from grpc_breaker.testing import EventRecorder, hold_open
from tests.support.decisions import METHOD, Guarded, quick


def trial(share: float = 0, **policy: Any) -> Guarded:
    """A method whose breaker is open, and enforces a share of its refusals."""
    method = Guarded(quick(enforcement_percentage=share, **policy))
    method.fail()
    assert method.breaker.state is State.OPEN
    return method


def test_at_zero_every_call_passes() -> None:
    """Nothing is refused while the breaker is open."""
    assert trial().passed(100) == 100


def test_listeners_hear_of_refusals_that_are_not_enforced() -> None:
    """Each call that would have been refused is reported, as not enforced, with its method and context."""
    method = trial()
    recorder = EventRecorder(method.breakers)
    method.admit(context="its context").success()
    (rejection,) = recorder.rejections
    assert (rejection.enforced, rejection.reason, rejection.method, rejection.context) == (
        False,
        "breaker",
        METHOD,
        "its context",
    )
    assert str(rejection.details) == "circuit breaker open for pkg.S/M; next probe in 10.0 s"


def test_they_are_counted_apart() -> None:
    """They are no refusals in the counts, but "unenforced"; the results are stale."""
    method = trial()
    method.succeed(3)
    assert method.breaker.tallies() == {
        ("failure", "UNAVAILABLE"): 1,
        ("unenforced", "breaker"): 3,
        ("stale", "OK"): 3,
    }


def test_changes_say_that_nothing_is_enforced() -> None:
    """Events of a breaker that enforces nothing say so; those of one that enforces some, or of operators, do not."""
    method = trial()
    method.breaker.force_open()
    method.breaker.reset()
    assert [(it.state, it.enforced) for it in method.breaker.changes] == [
        (State.OPEN, False),
        (State.FORCED_OPEN, True),
        (State.CLOSED, False),
    ]
    assert trial(1).breaker.changes[0].enforced


@pytest.mark.parametrize("outcome", list(Outcome))
def test_results_of_calls_that_pass_never_move_it(outcome: Outcome) -> None:
    """Whatever such calls end with, the breaker stays as it is, and its window too."""
    method = trial(half_open_successes=3)
    before = method.breaker.snapshot()
    for _ in range(20):
        method.admit().settle(outcome, "STATUS")
    after = method.breaker.snapshot()
    assert [after[it] for it in ("state", "generation", "window")] == [
        before[it] for it in ("state", "generation", "window")
    ]


def test_answers_of_streams_that_pass_never_move_it() -> None:
    """Nor does the first answer of a stream."""
    method = trial()
    stream = method.admit(timed=False)
    assert not stream.awaits_answer
    stream.answered()
    stream.failure()
    assert method.breaker.state is State.OPEN


def test_real_probes_still_decide() -> None:
    """When the open period is over a call is a probe, and its result counts as ever."""
    method = trial()
    unenforced = method.admit()
    method.clock.advance(10)
    probe = method.admit()
    assert (probe.is_probe, unenforced.is_probe) == (True, False)
    beside = method.admit()
    assert not beside.is_probe
    beside.failure()
    unenforced.failure()
    assert method.breaker.state is State.HALF_OPEN
    probe.success()
    assert method.breaker.state is State.CLOSED


def test_share_is_by_chance() -> None:
    """At 50 a call is refused where the number drawn is below a half."""
    method = trial(50)
    method.chance.next = 0.4999
    assert isinstance(method.refusal(), CircuitOpenError)
    method.chance.next = 0.5
    assert method.refusal() is None
    assert method.breaker.tallies()["rejected", "breaker"] == 1
    assert method.breaker.tallies()["unenforced", "breaker"] == 1


def test_at_a_hundred_chance_is_not_asked() -> None:
    """The default draws no numbers."""
    method = trial(100)
    asked = method.chance.asked
    assert method.refusal()
    assert method.chance.asked == asked


@pytest.mark.parametrize("share", [0, 50])
def test_forced_open_is_always_enforced(share: float) -> None:
    """An operator who forces it open means it."""
    method = trial(share)
    method.chance.next = 0.9999
    method.breaker.force_open()
    assert isinstance(method.refusal(), CircuitOpenError)


def test_limits_are_enforced() -> None:
    """The percentage is the breaker's: a bulkhead and a rate limit refuse, also calls that pass an open breaker."""
    policy = MethodPolicy(
        breaker=quick(enforcement_percentage=0), max_concurrent_calls=1, rate_limit=RateLimit(0.001, burst=3)
    )
    method = Guarded(policy)
    method.fail()
    recorder = EventRecorder(method.breaker)
    permit = method.admit()
    assert isinstance(method.refusal(), BulkheadFullError)
    permit.success()
    method.succeed()
    assert isinstance(method.refusal(), CallRefusedError)
    assert [(it.reason, it.enforced) for it in recorder.rejections] == [
        ("breaker", False),
        ("bulkhead", True),
        ("breaker", False),
        ("rate", True),
    ]


def test_calls_that_pass_are_in_flight() -> None:
    """Such a call occupies a place like any other, and its deadline gives it back."""
    method = trial()
    method.admit(timeout=1)
    assert method.breaker.in_flight == 1
    method.clock.advance(6)
    assert method.breaker.in_flight == 0


def test_calls_that_pass_and_hang_are_no_failures() -> None:
    """A call that says nothing about the server says nothing by hanging."""
    method = trial(hung_after=2)
    method.admit()
    method.clock.advance(3)
    method.succeed()
    assert method.breaker.snapshot()["totals"]["failure"] == 1


def test_trial_of_a_ramp() -> None:
    """A ramp that is not enforced is seen as well."""
    method = trial(ramp=10)
    method.clock.advance(10)
    method.succeed()
    recorder = EventRecorder(method.breaker)
    method.chance.next = 0.9999
    assert method.passed(3) == 3
    assert [(it.enforced, it.state) for it in recorder.rejections] == [(False, State.CLOSED)] * 2


def test_another_percentage_is_in_force_at_once() -> None:
    """After the trial the same open breaker refuses."""
    method = trial()
    assert method.refusal() is None
    method.breaker.reconfigure(quick(enforcement_percentage=100))
    assert method.refusal()


def test_waiting_ends_where_nothing_is_enforced() -> None:
    """A refusal that would not be enforced is none."""
    assert trial().breakers.wait_until_admitted(METHOD, 0)


def test_held_open_is_enforced() -> None:
    """A test that holds a breaker open sees refusals, whatever its percentage and its limits are."""
    policy = MethodPolicy(
        breaker=quick(enforcement_percentage=0), max_concurrent_calls=1, rate_limit=RateLimit(0.001, burst=1)
    )
    method = Guarded(policy)
    method.admit()
    with hold_open(method.breakers, METHOD, retry_after=5):
        assert isinstance(method.refusal(), CircuitOpenError)
    assert method.breaker.policy == quick(enforcement_percentage=0)
    assert isinstance(method.refusal(), BulkheadFullError)


def test_listener_that_interrupts_takes_no_place() -> None:
    """What a listener raises in the middle, like Ctrl-C, reaches the caller, and nothing is in flight."""
    method = trial()

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    method.breaker.on_rejection(interrupt)
    with pytest.raises(KeyboardInterrupt):
        method.admit()
    assert method.breaker.in_flight == 0
