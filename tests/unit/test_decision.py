"""The one decision: which part is asked before which, and what a refusal leaves untouched."""

from __future__ import annotations

import pytest

from grpc_breaker import (
    BreakerPolicy,
    BulkheadFullError,
    CallRefusedError,
    CircuitOpenError,
    MethodPolicy,
    Outcome,
    RateLimit,
    RateLimitedError,
    State,
    Throttle,
    ThrottledError,
)
from grpc_breaker.testing import EventRecorder
from tests.support.decisions import METHOD, Guarded, quick


def limited(most: int = 1, burst: int = 3, **breaker: object) -> Guarded:
    """A method with a breaker, a bulkhead and a rate limit."""
    policy = MethodPolicy(breaker=quick(**breaker), max_concurrent_calls=most, rate_limit=RateLimit(0.001, burst=burst))
    return Guarded(policy)


def test_breaker_is_asked_before_the_bulkhead() -> None:
    """An open breaker refuses, also where the bulkhead is full."""
    method = limited(most=2)
    method.admit()
    method.fail()
    method.breakers.reconfigure({"pkg.S": MethodPolicy(breaker=quick(), max_concurrent_calls=1)}, default=None)
    assert isinstance(method.refusal(), CircuitOpenError)


def test_bulkhead_is_asked_before_the_rate() -> None:
    """A full bulkhead refuses, also where the rate is used up."""
    method = limited(most=2, burst=2)
    method.passed(2)
    assert isinstance(method.refusal(), BulkheadFullError)


def test_throttle_is_asked_before_the_bulkhead() -> None:
    """A throttle, in the breaker's place, refuses, also where the bulkhead is full."""
    policy = MethodPolicy(throttle=Throttle(minimum_calls=1), max_concurrent_calls=2)
    method = Guarded(policy)
    method.fail()
    method.passed(2)
    assert isinstance(method.refusal(), ThrottledError)


def test_half_open_breaker_without_a_slot_is_asked_first() -> None:
    """Where all slots are taken it is the breaker that refuses, and nothing of the rate is used up."""
    method = limited(most=1, burst=3)
    method.fail()
    method.clock.advance(10)
    probe = method.admit()
    for _ in range(5):
        assert isinstance(method.refusal(), CircuitOpenError)
    probe.success()
    method.succeed()
    assert isinstance(method.refusal(), RateLimitedError)


def test_full_bulkhead_leaves_an_open_breaker_open() -> None:
    """A call that finds the open period over and the bulkhead full changes nothing: the next one is the first probe."""
    method = limited(most=1, consecutive_failures=1)
    method.breakers.reconfigure({"pkg.S": quick()}, default=None)
    stuck, failing = method.admit(), method.admit()
    failing.failure()
    method.clock.advance(10)
    method.breakers.reconfigure({"pkg.S": MethodPolicy(breaker=quick(), max_concurrent_calls=1)}, default=None)
    assert isinstance(method.refusal(), BulkheadFullError)
    assert method.breaker.state is State.OPEN
    stuck.success()
    assert method.admit().is_probe


def test_used_up_rate_takes_no_slot() -> None:
    """A half-open breaker keeps its slot free when the rate refuses a call."""
    policy = MethodPolicy(breaker=quick(half_open_max_calls=2), rate_limit=RateLimit(0.1, burst=2))
    method = Guarded(policy)
    method.fail()
    method.clock.advance(9.5)
    method.clock.advance(0.5)
    method.succeed(2)
    assert method.breaker.state is State.CLOSED
    method.clock.advance(5)
    method.breaker.reset()
    assert isinstance(method.refusal(), RateLimitedError)
    assert method.breaker.in_flight == 0


def test_rate_that_refuses_the_first_probe_leaves_the_breaker_open() -> None:
    """The rate is asked before the breaker becomes half-open."""
    method = limited(burst=1)
    method.fail()
    method.clock.advance(10)
    error = method.refusal()
    assert isinstance(error, RateLimitedError)
    assert (error.state, method.breaker.state) == (State.OPEN, State.OPEN)
    method.clock.advance(1000)
    assert method.admit().is_probe


def test_refusal_by_a_limit_enters_no_window() -> None:
    """What limits refuse moves no condition of the breaker."""
    method = limited(most=1, consecutive_failures=2)
    permit = method.admit()
    for _ in range(100):
        assert method.refusal()
    before = method.breaker.snapshot()["window"]
    assert before == {"calls": 0, "failures": 0, "slow": 0, "consecutive_failures": 0}
    permit.failure()
    assert method.breaker.state is State.CLOSED


def test_limits_do_not_stop_what_ends_calls() -> None:
    """A permit that was admitted with limits counts like any other."""
    method = limited(most=5, burst=5, consecutive_failures=3)
    for outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED):
        method.admit().settle(outcome, "STATUS" if outcome is Outcome.FAILURE else "")
    totals = method.breaker.snapshot()["totals"]
    assert (totals["success"], totals["failure"], totals["ignored"], totals["rejected"]) == (1, 1, 1, 0)


def test_one_rejection_for_each_refusal_whatever_refuses() -> None:
    """Listeners hear of each refusal once, with its reason and context."""
    method = limited(most=1, burst=2)
    recorder = EventRecorder(method.breakers)
    permit = method.admit()
    method.refusal(context="full")
    permit.success()
    method.succeed()
    method.refusal(context="too many")
    method.breaker.force_open()
    method.refusal(context="forced")
    assert [(it.reason, it.context, it.method) for it in recorder.rejections] == [
        ("bulkhead", "full", METHOD),
        ("rate", "too many", METHOD),
        ("breaker", "forced", METHOD),
    ]


def test_snapshot_shows_limits_and_refusals() -> None:
    """Everything can be read from a snapshot."""
    policy = MethodPolicy(max_concurrent_calls=1, rate_limit=RateLimit(50), throttle=Throttle())
    method = Guarded(policy)
    method.passed(3)
    snapshot = method.breaker.snapshot()
    assert snapshot["limits"] == {"max_concurrent_calls": 1, "calls_per_second": 50, "throttled_share": 0.0}
    assert snapshot["refusals"] == {"bulkhead": 2}
    assert snapshot["in_flight"] == 1


def test_limits_without_a_breaker() -> None:
    """A policy may have limits and no breaker: it never opens, and the limits hold."""
    method = Guarded(MethodPolicy(breaker=None, max_concurrent_calls=2))
    method.fail(100)
    assert method.breaker.state is State.CLOSED
    assert method.passed(3) == 2


def test_decorated_function_meets_the_limits() -> None:
    """A function that the method's breaker decorates is refused like a call."""
    method = limited(most=1)

    @method.breaker
    def ask() -> CallRefusedError | None:
        return method.refusal()

    assert isinstance(ask(), BulkheadFullError)


def test_clock_that_raises_takes_nothing() -> None:
    """Where the clock raises, the call is not admitted, and no place is taken."""
    method = limited(most=1)
    broken = False

    def clock() -> float:
        if broken:
            raise LookupError
        return 0.0

    breakers = type(method.breakers)({"pkg.S": MethodPolicy(max_concurrent_calls=1)}, clock=clock)
    breaker = breakers[METHOD]
    broken = True
    with pytest.raises(LookupError):
        breaker.admit()
    broken = False
    assert breaker.admit()


def test_listener_that_calls_again_finds_the_place_taken() -> None:
    """A listener of the change that a probe causes makes a call of its own: the probe has its place already."""
    method = limited(most=1)
    method.fail()
    method.clock.advance(10)
    nested: list[object] = []
    method.breaker.on_state_change(lambda _: nested.append(method.refusal()))
    assert method.admit().is_probe
    assert isinstance(nested[0], CircuitOpenError)
    assert method.breaker.in_flight == 1


def test_interrupted_probe_gives_everything_back() -> None:
    """What a listener of the first probe's change raises, like Ctrl-C, reaches the caller, and its place is free."""
    method = limited(most=1)
    method.fail()
    method.clock.advance(10)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    end = method.breaker.on_state_change(interrupt)
    with pytest.raises(KeyboardInterrupt):
        method.admit()
    end()
    assert (method.breaker.in_flight, method.breaker.state) == (0, State.HALF_OPEN)
    assert method.admit().is_probe


def test_policy_without_limits_has_no_limits() -> None:
    """A breaker alone has nothing but its breaker."""
    assert Guarded(BreakerPolicy()).breaker.snapshot()["limits"] is None
