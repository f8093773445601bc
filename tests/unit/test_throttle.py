"""A throttle: which share of the calls is refused, instead of a breaker that opens."""

from __future__ import annotations

import pytest

from grpc_breaker import BreakerPolicy, MethodPolicy, RefusalReason, State, Throttle, ThrottledError
from grpc_breaker.testing import EventRecorder
from tests.support.decisions import Guarded, quick


def throttled(k: float = 2.0, window: float = 30.0, minimum_calls: int = 10, **policy: object) -> Guarded:
    """A method with a throttle, and chance at 0: what may be refused is."""
    throttle = Throttle(k=k, window=window, minimum_calls=minimum_calls)
    return Guarded(MethodPolicy(throttle=throttle, **policy))  # type: ignore[arg-type]


def share(method: Guarded) -> float:
    """The share of the calls that is refused now."""
    told: float = method.breaker.snapshot()["limits"]["throttled_share"]
    return told


def fail(method: Guarded, calls: int) -> None:
    """Calls that pass by chance, and fail."""
    method.chance.next = 0.999999
    method.fail(calls)
    method.chance.next = 0.0


def use_up_the_forced_pass(method: Guarded) -> None:
    """Make the one call that passes each second whatever the share is."""
    method.admit().ignore()


def test_nothing_is_refused_below_the_minimum() -> None:
    """Until the window holds `minimum_calls` every call passes, however many fail."""
    method = throttled(minimum_calls=10)
    fail(method, 9)
    assert share(method) == 0
    assert method.refusal() is None
    fail(method, 1)
    assert share(method) > 0


@pytest.mark.parametrize(
    ("k", "good", "bad", "expected"),
    [
        (2, 10, 0, 0.0),
        (2, 10, 10, 0.0),
        (2, 10, 11, 1 / 22),
        (2, 0, 19, 19 / 20),
        (1.5, 20, 20, 10 / 41),
        (1, 99, 1, 1 / 101),
    ],
)
def test_share_is_by_the_formula(k: float, good: int, bad: int, expected: float) -> None:
    """The share is max(0, (calls - k * accepted) / (calls + 1))."""
    method = throttled(k=k, minimum_calls=1)
    method.chance.next = 0.999999
    method.succeed(good)
    fail(method, bad)
    assert share(method) == pytest.approx(expected)


@pytest.mark.parametrize("between", [0.0, 1.0, 3.0, 29.0])
def test_share_is_of_what_the_window_holds(between: float) -> None:
    """Calls that have left the window, and refusals, no longer count, whatever came last and when."""
    method = throttled(minimum_calls=1)
    method.succeed(50)
    fail(method, 20)
    method.clock.advance(31)
    fail(method, 10)
    use_up_the_forced_pass(method)
    assert share(method) == pytest.approx(10 / 11)
    assert method.passed(4) == 0
    assert share(method) == pytest.approx(14 / 15)
    method.clock.advance(31)
    fail(method, 10)
    method.chance.next = 0.999999
    method.succeed(3)
    method.clock.advance(between)
    assert share(method) == pytest.approx((13 - 2 * 3) / 14 if between < 27 else 0.0)


def test_chance_decides_which_calls() -> None:
    """A call is refused where the number drawn is below the share."""
    method = throttled(minimum_calls=1)
    fail(method, 19)
    use_up_the_forced_pass(method)
    method.chance.next = 0.95
    assert method.refusal() is None
    method.chance.next = 0.9499
    method.refusal()  # the one that passes each second
    assert isinstance(method.refusal(), ThrottledError)


def test_healthy_server_costs_no_chance() -> None:
    """While nothing is to be refused no number is drawn."""
    method = throttled(minimum_calls=1)
    before = method.chance.asked
    method.succeed(100)
    assert method.chance.asked == before


def test_refusals_count_as_calls() -> None:
    """What is refused here is asked of the server, too: else the share would not grow with the load."""
    method = throttled(k=2, minimum_calls=10)
    method.succeed(5)
    fail(method, 10)
    before = share(method)
    assert before == pytest.approx(5 / 16)
    use_up_the_forced_pass(method)
    for _ in range(5):
        assert method.refusal()
    assert share(method) == pytest.approx((20 - 10) / 21)


def test_one_call_passes_each_second() -> None:
    """Whatever the share is, one call passes each second and finds out how the server is."""
    method = throttled(minimum_calls=1)
    fail(method, 1)
    passed = []
    for _ in range(8):
        passed.append(sum(method.refusal() is None for _ in range(10)))
        method.clock.advance(0.5)
    assert passed == [1, 0] * 4


def test_recovers() -> None:
    """Once the server is well the share falls to nothing before two windows have passed."""
    method = throttled(window=30, minimum_calls=5)
    fail(method, 100)
    assert share(method) > 0.9
    seconds = 0
    while share(method) > 0 and seconds < 60:
        seconds += 1
        method.clock.advance(1)
        method.chance.next = (seconds * 0.37) % 1
        for _ in range(20):
            try:
                method.succeed()
            except ThrottledError:
                continue
    assert seconds < 60


def test_refusal_says_the_share() -> None:
    """The refusal names the throttle and the share; a call may pass at any moment."""
    method = throttled(minimum_calls=1)
    fail(method, 1)
    use_up_the_forced_pass(method)
    error = method.refusal()
    assert error is not None
    assert (error.reason, error.state, error.condition, error.retry_after) == (
        RefusalReason.THROTTLE,
        State.CLOSED,
        None,
        0.0,
    )
    assert str(error) == "throttled for pkg.S/M; 50 % of the calls are refused"


def test_refusal_is_unavailable_and_counted() -> None:
    """A refused RPC would show UNAVAILABLE; it is counted as the throttle's refusal, and in no window."""
    method = throttled(minimum_calls=1)
    recorder = EventRecorder(method.breakers)
    fail(method, 1)
    use_up_the_forced_pass(method)
    method.refusal()
    (rejection,) = recorder.rejections
    assert rejection.code == "UNAVAILABLE"
    assert method.breaker.tallies()["rejected", "throttle"] == 1
    assert method.breaker.snapshot()["window"]["calls"] == 1


@pytest.mark.parametrize("breaker", [None, BreakerPolicy(consecutive_failures=1, slow_call_duration=1), quick()])
def test_breaker_never_trips(breaker: BreakerPolicy | None) -> None:
    """With a throttle no condition opens the breaker, whatever its policy says."""
    method = throttled(minimum_calls=1, breaker=breaker)
    method.chance.next = 0.9999
    for _ in range(100):
        permit = method.admit()
        method.clock.advance(0.25)
        permit.failure()
    assert (method.breaker.state, method.breaker.changes) == (State.CLOSED, ())


def test_forced_open_all_the_same() -> None:
    """An operator can force it open, and then it is the breaker that refuses."""
    method = throttled()
    method.breaker.force_open()
    error = method.refusal()
    assert error is not None
    assert error.reason is RefusalReason.BREAKER


def test_disabled_refuses_nothing() -> None:
    """An operator who disables the breaker has disabled the throttle, which stands in its place."""
    method = throttled(minimum_calls=1)
    fail(method, 3)
    use_up_the_forced_pass(method)
    assert method.refusal()
    method.breaker.disable()
    fail(method, 50)
    assert method.refusal() is None


def test_reset_forgets_the_refusals_too() -> None:
    """After a reset nothing is refused until the window holds enough calls again."""
    method = throttled(minimum_calls=5)
    fail(method, 5)
    use_up_the_forced_pass(method)
    for _ in range(50):
        assert method.refusal()
    method.breaker.reset()
    assert share(method) == 0
    assert method.refusal() is None


def test_window_is_the_throttles() -> None:
    """Calls and refusals leave after `throttle.window`, whatever the breaker's own window would be."""
    method = throttled(window=10, minimum_calls=1, breaker=BreakerPolicy(window_calls=50))
    fail(method, 20)
    use_up_the_forced_pass(method)
    for _ in range(20):
        method.refusal()
    method.clock.advance(8.5)
    assert share(method) > 0.9
    method.clock.advance(2)
    assert share(method) == 0


def test_refusals_of_a_moving_window_leave_one_by_one() -> None:
    """Refusals leave the window as the calls do."""
    method = throttled(window=10, minimum_calls=1)
    fail(method, 1)
    use_up_the_forced_pass(method)
    for _ in range(10):
        method.chance.next = 0.0
        method.refusal()
        method.clock.advance(1.0)
        method.chance.next = 0.99
        method.succeed()
    assert 0 <= share(method) < 0.5


def reconfigured(method: Guarded, throttle: Throttle | None) -> None:
    """Put another throttle in force."""
    method.breakers.reconfigure({"pkg.S": MethodPolicy(throttle=throttle)}, default=None)


def test_another_k_judges_the_same_window() -> None:
    """Another factor is in force at once, and what was counted stays, refusals included."""
    method = throttled(k=2, window=30, minimum_calls=1)
    method.succeed(5)
    fail(method, 6)
    use_up_the_forced_pass(method)
    assert method.refusal()
    reconfigured(method, Throttle(k=1, window=30, minimum_calls=1))
    assert share(method) == pytest.approx(7 / 13)


def test_another_window_begins_empty() -> None:
    """A window of another length begins anew, for refusals as for calls."""
    method = throttled(window=30, minimum_calls=1)
    fail(method, 1)
    use_up_the_forced_pass(method)
    for _ in range(20):
        assert method.refusal()
    reconfigured(method, Throttle(window=60, minimum_calls=1))
    assert share(method) == 0


def test_throttle_can_be_taken_away() -> None:
    """Without the throttle the breaker has its conditions again."""
    method = throttled(minimum_calls=1)
    fail(method, 1)
    use_up_the_forced_pass(method)
    assert method.refusal()
    method.breakers.reconfigure({"pkg.S": quick()}, default=None)
    method.fail()
    assert method.breaker.state is State.OPEN
