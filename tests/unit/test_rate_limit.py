"""A rate limit: how many calls begin in a second, how many at once, and what a refused one is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count

import pytest

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CallRefusedError,
    MethodPolicy,
    RateLimit,
    RateLimitedError,
    RefusalReason,
    State,
)
from grpc_breaker.testing import EventRecorder
from tests.support.decisions import METHOD, Guarded, quick


def limited(per_second: float, burst: int | None = None) -> Guarded:
    """A method with a rate limit."""
    return Guarded(MethodPolicy(breaker=quick(), rate_limit=RateLimit(per_second, burst=burst)))


def reconfigured(method: Guarded, per_second: float, burst: int | None = None) -> None:
    """Put another rate limit in force."""
    policy = MethodPolicy(breaker=quick(), rate_limit=RateLimit(per_second, burst=burst))
    method.breakers.reconfigure({"pkg.S": policy}, default=None)


def test_burst_passes_at_once() -> None:
    """After a quiet time as many calls as the burst pass at one moment, and one more is refused."""
    method = limited(10, burst=3)
    assert method.passed(5) == 3
    assert isinstance(method.refusal(), RateLimitedError)


def test_burst_is_a_second_of_calls_by_default() -> None:
    """Without a burst, the calls of one second may come at once."""
    assert limited(7).passed(20) == 7


def test_rate_after_the_burst() -> None:
    """Then one call passes for each interval."""
    method = limited(4, burst=2)
    method.passed(2)
    passed = []
    for _ in range(16):
        method.clock.advance(0.125)
        passed.append(method.passed(5))
    assert passed == [0, 1] * 8


def test_quiet_time_saves_no_more_than_the_burst() -> None:
    """However long nobody called, no more than the burst pass at once."""
    method = limited(4, burst=2)
    method.passed(2)
    method.clock.advance(3600)
    assert method.passed(9) == 2


@pytest.mark.parametrize(("per_second", "burst"), [(10, 3), (3, 1), (0.01, 1), (7.7, 5), (1e6, 10), (1e-6, 2)])
@pytest.mark.parametrize("now", [0.0, 0.3, 86_400.1, 1_750_000_000.123])
def test_retry_after_is_when_the_next_call_passes(per_second: float, burst: int, now: float) -> None:
    """A call that comes when the refusal said passes, and one that comes clearly before is refused."""
    method = limited(per_second, burst=burst)
    method.clock.advance(now)
    for _ in range(20):
        while (error := method.refusal()) is None:
            pass
        wait = error.retry_after
        assert wait is not None
        assert 0 < wait <= 1.001 / per_second + 1e-6
        if wait > 1e-3:
            method.clock.advance(wait * 0.99)
            assert method.refusal()
            wait *= 0.01
        method.clock.advance(wait)
        assert method.refusal() is None


def test_over_a_long_time_the_rate_is_kept() -> None:
    """Calls that come again whenever they are told pass at the rate exactly."""
    method = limited(7.7, burst=1)
    passed = 0
    while method.clock() < 1000:
        error = method.refusal()
        if error is None:
            passed += 1
        else:
            method.clock.advance(error.retry_after or 0.0)
    assert passed in {7700, 7701}


def test_refusal_says_rate_and_time() -> None:
    """The refusal names the rate limit and when the next call passes."""
    method = limited(0.5, burst=1)
    method.passed(1)
    error = method.refusal()
    assert error is not None
    assert (error.reason, error.state, error.condition, error.retry_after) == (
        RefusalReason.RATE,
        State.CLOSED,
        None,
        pytest.approx(2.0),
    )
    assert str(error) == "rate limit of 0.5 calls per second for pkg.S/M; next call in 2 s"


@pytest.mark.parametrize(
    ("per_second", "said"), [(0.003, "333 s"), (0.01003, "100 s"), (400, "0.0025 s"), (0.03, "33 s")]
)
def test_time_is_said_as_people_read_it(per_second: float, said: str) -> None:
    """Short times and long ones are said in two digits or whole seconds."""
    method = limited(per_second, burst=1)
    method.passed(1)
    assert str(method.refusal()).endswith(f"next call in {said}")


def test_refusal_says_the_state_of_now() -> None:
    """Of calls that wait for the same moment each is told the state in which it came."""
    method = limited(0.5, burst=1)
    method.passed(1)
    states = []
    for command in (method.breaker.reset, method.breaker.disable, method.breaker.reset):
        command()
        error = method.refusal()
        assert error is not None
        states.append(error.state)
    assert states == [State.CLOSED, State.DISABLED, State.CLOSED]


def test_refusal_is_resource_exhausted() -> None:
    """A refused RPC would show RESOURCE_EXHAUSTED, whatever the breaker's own refusals show."""
    method = Guarded(MethodPolicy(breaker=quick(refusal_code="ABORTED"), rate_limit=RateLimit(1, burst=1)))
    recorder = EventRecorder(method.breakers)
    method.passed(2)
    (rejection,) = recorder.rejections
    assert (rejection.code, rejection.reason) == ("RESOURCE_EXHAUSTED", "rate")


def test_refusals_are_counted_by_their_reason() -> None:
    """What the rate limit refused is counted as its refusals."""
    method = limited(1, burst=1)
    method.passed(4)
    assert method.breaker.tallies() == {("rejected", "rate"): 3}


def test_refusals_use_nothing_up() -> None:
    """Calls that are refused do not put off the next one that passes."""
    method = limited(1, burst=1)
    method.passed(1000)
    method.clock.advance(1)
    assert method.passed(10) == 1


def test_streams_are_limited_too() -> None:
    """A stream begins once, like any call."""
    method = limited(1, burst=2)
    method.admit(timed=False)
    method.admit()
    assert method.refusal(timed=False)


def test_methods_have_limits_of_their_own() -> None:
    """A policy for a service is a limit for each method; methods of a group share one."""
    method = limited(1, burst=1)
    method.passed(1)
    assert method.breakers["pkg.S/Other"].admit()
    grouped = MethodPolicy(breaker=BreakerPolicy(group="shared"), rate_limit=RateLimit(1, burst=1))
    breakers = BreakerRegistry({"pkg.S": grouped}, clock=method.clock)
    one, other = breakers.breaker_for("/pkg.S/A"), breakers.breaker_for("/pkg.S/B")
    assert one is not None
    assert other is not None
    one.admit()
    with pytest.raises(RateLimitedError):
        other.admit()


def test_call_refused_by_the_breaker_uses_nothing() -> None:
    """While the breaker is open nothing is taken from the rate."""
    method = limited(1, burst=3)
    method.fail()
    for _ in range(10):
        assert method.refusal()
    method.breaker.reset()
    assert method.passed(5) == 2


def test_call_refused_by_the_bulkhead_uses_nothing() -> None:
    """A full bulkhead refuses first, and takes nothing from the rate."""
    method = Guarded(MethodPolicy(max_concurrent_calls=1, rate_limit=RateLimit(1, burst=3)))
    permit = method.admit()
    for _ in range(10):
        assert str(method.refusal()).startswith("bulkhead full")
    permit.success()
    method.succeed(2)
    assert isinstance(method.refusal(), RateLimitedError)


# ── Another limit ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_allowed_still_counts() -> None:
    """Another limit does not forget the calls that were allowed."""
    method = limited(10, burst=5)
    method.passed(5)
    reconfigured(method, 2, burst=5)
    error = method.refusal()
    assert error is not None
    assert error.retry_after == pytest.approx(0.5)


def test_same_limit_changes_nothing() -> None:
    """The same limit once more neither allows nor forbids anything."""
    method = limited(10, burst=5)
    method.passed(4)
    for _ in range(10):
        reconfigured(method, 10, burst=5)
    assert method.passed(5) == 1


def test_faster_limit_helps_at_once() -> None:
    """A debt made at a slow pace is not waited for at that pace."""
    method = limited(0.01, burst=100)
    method.passed(100)
    reconfigured(method, 1000, burst=1)
    method.clock.advance(0.001)
    assert method.passed(2) == 1


def test_smaller_burst_leaves_no_long_wait() -> None:
    """A debt made with a large burst is no more than the new one: the next call waits for one interval."""
    method = limited(1000, burst=1000)
    method.passed(1000)
    reconfigured(method, 1, burst=1)
    assert method.refusal()
    method.clock.advance(1)
    assert method.passed(2) == 1


def test_unused_limit_stays_unused() -> None:
    """After a quiet time another limit has its whole burst."""
    method = limited(10, burst=5)
    method.passed(5)
    method.clock.advance(60)
    reconfigured(method, 1, burst=3)
    assert method.passed(9) == 3


def test_other_parts_of_the_policy_leave_the_rate() -> None:
    """A policy that changes something else leaves what was allowed."""
    method = limited(1, burst=2)
    method.passed(2)
    policy = MethodPolicy(breaker=quick(), rate_limit=RateLimit(1, burst=2), max_concurrent_calls=50, timeout=1)
    method.breakers.reconfigure({"pkg.S": policy}, default=None)
    assert isinstance(method.refusal(), RateLimitedError)


def test_limit_that_is_used_up_is_not_forgotten_with_its_breaker() -> None:
    """A registry that is full keeps the breaker whose rate limit has something left to remember."""
    policy = MethodPolicy(rate_limit=RateLimit(0.001, burst=1))
    method = limited(1)
    breakers = BreakerRegistry(default=policy, max_breakers=1, clock=method.clock)
    breakers["pkg.S/A"].admit().success()
    for n in range(5):
        breakers[f"pkg.S/Other{n}"].admit().success()
    with pytest.raises(RateLimitedError):
        breakers["pkg.S/A"].admit()


def test_threads_never_get_more_than_is_allowed() -> None:
    """Sixteen threads at once are allowed the burst, and what the time that passes allows."""
    ticks: Iterator[int] = count()
    breakers = BreakerRegistry(
        {"pkg.S": MethodPolicy(breaker=None, rate_limit=RateLimit(100, burst=50))}, clock=lambda: next(ticks) / 10_000
    )
    breaker = breakers[METHOD]
    threads, calls = 16, 500
    ready, passed = threading.Barrier(threads), []

    def call() -> None:
        ready.wait()
        admitted = 0
        for _ in range(calls):
            try:
                breaker.admit().ignore()
            except CallRefusedError:
                continue
            admitted += 1
        passed.append(admitted)

    workers = [threading.Thread(target=call) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = next(ticks) / 10_000
    assert 50 <= sum(passed) <= 50 + seconds * 100 + 1
