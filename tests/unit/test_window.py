"""The windows: what they hold, and what they forget."""

from __future__ import annotations

import random
from functools import partial
from operator import sub

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker
from grpc_breaker._core import window as window_module
from grpc_breaker._core.window import CountWindow, Held, TimeWindow, Window
from grpc_breaker.testing import FakeClock
from tests.support.lines import act_at


def record(window: Window, now: float, *, failed: bool = False, slow: bool = False) -> Held:
    """Count a result, as a breaker does; returns what the window holds then."""
    window.calls += 1
    window.failures += failed
    window.slow_calls += slow
    if now >= window.quiet_until:
        if failed or slow:
            window.take_in(now, failed, slow)
        else:
            window.good(now)
    if failed or slow:
        assert tuple(map(sub, (window.calls, window.failures, window.slow_calls), window.before)) == window.held(now)
    return window.held(now)


def held(kept: list[tuple[float, bool, bool]]) -> Held:
    """What a window of these results holds."""
    return len(kept), sum(failed for _, failed, _ in kept), sum(slow for _, _, slow in kept)


@pytest.mark.parametrize("seed", range(20))
def test_time_window_counts_what_is_inside(seed: int) -> None:
    """A time window holds what came in its last ten buckets, whatever the rhythm."""
    rng = random.Random(seed)
    window, kept, now = TimeWindow(10.0, 0.0), [], 0.0
    for _ in range(500):
        now += rng.choice([0.0, 0.25, 0.5, 1.0, 3.0, 9.75, 10.0, 1000.0])
        if rng.random() < 0.8:
            failed, slow = rng.random() < 0.3, rng.random() < 0.3
            kept.append((now // 1, failed, slow))
            inside = [it for it in kept if it[0] > now // 1 - 10]
            assert record(window, now, failed=failed, slow=slow) == held(inside)
        inside = [it for it in kept if it[0] > now // 1 - 10]
        assert window.held(now) == held(inside)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [1, 6, 7])
def test_count_window_counts_the_last(seed: int, size: int) -> None:
    """A count window holds the last results, and no more."""
    rng = random.Random(seed)
    window, kept = CountWindow(size), []
    for _ in range(100):
        kept = [*kept[1 - size if size > 1 else size :], (0, rng.random() < 0.3, rng.random() < 0.3)]
        assert record(window, 0.0, failed=kept[-1][1], slow=kept[-1][2]) == held(kept)
        assert window.held(0.0) == held(kept)


def test_looking_changes_nothing() -> None:
    """What is asked in the middle of anything, by a signal handler, leaves the window as it was."""
    window = TimeWindow(10.0, 0.0)
    record(window, 0.5, failed=True, slow=True)
    assert window.held(1e6) == (0, 0, 0)
    assert window.held(9.9) == (1, 1, 1)
    assert window.held(10.0) == (0, 0, 0)
    assert record(window, 1.5) == (2, 1, 1)
    assert record(window, 10.5) == (2, 0, 0)


def test_clock_that_stands_still_or_runs_backwards() -> None:
    """With a clock that stands still or runs backwards nothing is lost and nothing raises."""
    window = TimeWindow(10.0, 100.0)
    for n, now in enumerate((100.0, 100.0, 50.0, 0.0, 100.0), 1):
        assert record(window, now, failed=True) == (n, n, 0)
    record(window, 101.5)
    for seconds in range(80, 102):
        assert window.held(float(seconds)) == (6, 5, 0)


def test_two_threads_begin_one_bucket() -> None:
    """A bucket that two threads begin at once is begun once; at most one result counts for the bucket before."""
    window = TimeWindow(10.0, 0.0)
    record(window, 0.5, failed=True)
    window.calls += 2  # two threads have added a success each, and both find that the bucket is over
    window.good(9.5)
    window.good(9.5)
    assert window.held(9.5) == (3, 1, 0)
    assert window.held(10.5) == (1, 0, 0)


@pytest.mark.parametrize("late", [9.5, 10.5, 19.5, 100.5])
def test_others_count_while_a_bucket_begins(late: float) -> None:
    """What other threads count while one begins a bucket counts in it, whatever the line at which they come."""
    at = 0
    while True:
        at += 1
        window = TimeWindow(10.0, 0.0)
        record(window, 0.5, failed=True)

        def count(window: TimeWindow = window) -> None:
            window.calls += 1000
            window.failures += 100

        window.calls += 1
        if not act_at([window_module.__file__], partial(window.take_in, late, False, False), count, at):
            break
        before = (window.calls - window.before[0], window.failures - window.before[1], 0)
        assert before == window.held(late), at
        assert before in {(1001, 100, 0), (1002, 101, 0), (1, 0, 0)}, at
    assert at > 5


def test_totals_beyond_32_bits() -> None:
    """A bucket keeps the last 32 bits of a total, and that is enough: what a window holds is a difference."""
    window = TimeWindow(10.0, 0.0)
    window.calls, window.failures, window.slow_calls = 2**32 - 2, 2**40 - 2, 2**64 - 2
    record(window, 100.5, failed=True, slow=True)
    assert window.held(100.5) == (1, 1, 1)
    for now in (100.5, 101.5, 109.5):
        record(window, now, failed=True, slow=True)
    assert window.held(109.5) == (4, 4, 4)
    assert window.held(110.5) == (2, 2, 2)


@pytest.mark.parametrize("window_calls", [None, 23], ids=["time", "count"])
def test_last_failures_are_few(window_calls: int | None) -> None:
    """The last five failures are remembered, the oldest first, each with 200 characters of its details at most."""
    clock = FakeClock()
    breaker = CircuitBreaker("prices", BreakerPolicy(failure_threshold=23, window_calls=window_calls), clock=clock)
    for n in range(23):
        breaker.admit().failure(f"STATUS {n}", f"{n} " + "x" * 500)
    clock.advance(breaker.policy.max_reset_timeout)
    breaker.admit().failure("STATUS 23", "23 " + "x" * 500)
    for change, newest in zip((breaker.changes[0], breaker.changes[-1]), (22, 23), strict=True):
        assert [failure.status for failure in change.last_failures] == [f"STATUS {newest - n}" for n in (4, 3, 2, 1, 0)]
        assert {len(failure.details) for failure in change.last_failures} == {200}
