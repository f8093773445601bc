"""The windows: what they hold, and what they forget."""

from __future__ import annotations

import random
from itertools import count

import pytest

from grpc_breaker._core.window import Counts, CountWindow, TimeWindow


def _counts(kept: list[tuple[float, bool, bool]]) -> tuple[int, int, int]:
    return len(kept), sum(failed for _, failed, _ in kept), sum(slow for _, _, slow in kept)


@pytest.mark.parametrize("seed", range(20))
def test_time_window_counts_what_is_inside(seed: int) -> None:
    """A time window holds what came in its last ten buckets, whatever the rhythm."""
    rng = random.Random(seed)
    window, kept, now = TimeWindow(10.0, 0.0, count()), [], 0.0
    for _ in range(500):
        now += rng.choice([0.0, 0.25, 0.5, 1.0, 3.0, 9.75, 10.0, 1000.0])
        if rng.random() < 0.8:
            failed, slow = rng.random() < 0.3, rng.random() < 0.3
            kept.append((now // 1, failed, slow))
            inside = [it for it in kept if it[0] > now // 1 - 10]
            assert window.record(now, failed, slow) == _counts(inside)
        inside = [it for it in kept if it[0] > now // 1 - 10]
        assert window.counts(now) == _counts(inside)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [1, 6, 7])
def test_count_window_counts_the_last(seed: int, size: int) -> None:
    """A count window holds the last results, and no more."""
    rng = random.Random(seed)
    window, kept = CountWindow(size), []
    for _ in range(100):
        kept = [*kept[1 - size if size > 1 else size :], (0, rng.random() < 0.3, rng.random() < 0.3)]
        assert window.record(0.0, *kept[-1][1:]) == _counts(kept)
        assert window.counts(0.0) == _counts(kept)


def test_looking_changes_nothing() -> None:
    """What is asked in the middle of anything, by a signal handler, leaves the window as it was."""
    window = TimeWindow(10.0, 0.0, count())
    window.record(0.5, failed=True, slow=True)
    assert window.counts(1e6) == Counts(0, 0, 0)
    assert window.counts(9.9) == Counts(1, 1, 1)
    assert window.counts(10.0) == Counts(0, 0, 0)
    assert window.record(1.5, failed=False, slow=False) == Counts(2, 1, 1)
    assert window.record(10.5, failed=False, slow=False) == Counts(2, 0, 0)


def test_clock_that_stands_still_or_runs_backwards() -> None:
    """With a clock that stands still or runs backwards nothing is lost and nothing raises."""
    window = TimeWindow(10.0, 100.0, count())
    for n, now in enumerate((100.0, 100.0, 50.0, 0.0, 100.0), 1):
        assert window.record(now, failed=True, slow=False) == Counts(n, n, 0)
    window.record(101.5, failed=False, slow=False)
    for seconds in range(80, 102):
        assert window.counts(float(seconds)) == Counts(6, 5, 0)


def test_good_results_counted_elsewhere_are_in_the_window() -> None:
    """Results counted without the window leave it in their time, too."""
    elsewhere = count(5)
    window = TimeWindow(10.0, 0.0, elsewhere)
    assert window.counts(0.5) == Counts(0, 0, 0)
    for _ in range(3):
        next(elsewhere)
    assert window.counts(9.5) == Counts(3, 0, 0)
    assert window.record(5.5, failed=True, slow=False) == Counts(4, 1, 0)
    assert window.record(10.5, failed=True, slow=True) == Counts(2, 2, 1)
    assert window.counts(29.5) == Counts(0, 0, 0)
