"""Counting results inside a window: how many there were, how many failed, how many were slow.

Two shapes, one interface. Both cost O(1) a result and hold constant memory whatever the traffic. Neither has a clock of
its own: the breaker says what time it is. What a window holds can be asked without changing it.

Totals only ever grow, and what a window holds is the difference between two of them: the totals now, and the totals
when the oldest result still inside came. So a result is counted by one addition or one append, and where threads meet,
or an exception arrives between two lines, at most that one result is missing; nothing stays wrong.

A result is counted in two steps. First it is added to the totals. Then, if `quiet_until` has come, `take_in` is called
for it, or `good` for a success. A success opens nothing, so before `quiet_until` it costs an addition and nothing else.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from typing import Final, Self

from grpc_breaker._core.events import LAST_FAILURES

_BUCKETS: Final = 10
"""A result leaves a time window between 0.9 and 1.0 window lengths after it came; finer costs memory, not time."""

_TOTALS: Final = 3
"""Numbers kept for each bucket: calls, failures, slow."""

_BITS: Final = 0xFFFFFFFF
"""Of a total, a bucket keeps the last 32 bits: no window holds more results than that."""

_ZEROS: Final = array("I", bytes(4 * _TOTALS * _BUCKETS))
"""The buckets of every window in which none has ended yet."""

MOST_KEPT: Final = 2 * LAST_FAILURES
"""Last failures kept before those are forgotten that no event reports."""

_LONG_AGO: Final = -math.inf


Held = tuple[int, int, int]
"""What a window holds at one moment: calls, failures, slow calls. A call that failed slowly is in both of the
latter."""


class Window:
    """What both windows share: the totals, the row, and the last failures."""

    __slots__ = ("before", "calls", "counted_at", "failures", "in_a_row", "last", "quiet_until", "slow_calls")

    def __init__(self) -> None:
        self.calls = self.failures = self.slow_calls = 0
        """The totals: results since the window was made. A call that failed slowly is in both of the latter."""
        self.before: Held = (0, 0, 0)
        """The totals when the oldest result came that was inside when `take_in` was last called."""
        self.quiet_until = _LONG_AGO
        """Until then, a result needs nothing but to be added."""
        self.in_a_row = 0
        """Failures without a success between them, whatever the window holds."""
        self.counted_at = _LONG_AGO
        """When the row was last lengthened."""
        self.last: list[tuple[str, str]] = []
        """Status and details of the last few failures, the oldest first: those that events report, and some before."""

    def good(self, now: float) -> None:
        """Take in a success that has just been added to the totals, at `quiet_until` or later."""
        raise NotImplementedError

    def take_in(self, now: float, failed: bool, slow: bool) -> None:
        """Take in a result that has just been added to the totals, at `quiet_until` or later."""
        raise NotImplementedError

    def held(self, now: float) -> Held:
        """What the window holds at `now`."""
        raise NotImplementedError

    def note(self, status: str, details: str) -> None:
        """Note a failure for those who ask for the last ones."""
        last = self.last
        last.append((status, details))
        if len(last) > MOST_KEPT:
            del last[:LAST_FAILURES]

    def last_failures(self) -> list[tuple[str, str]]:
        """Status and details of the last few failures, the oldest first."""
        return self.last[-LAST_FAILURES:]

    def after(self, window: Window) -> Self:
        """Go on with the row and the last failures of another window; returns this one."""
        self.in_a_row, self.counted_at, self.last = window.in_a_row, window.counted_at, window.last
        return self


class TimeWindow(Window):
    """The results of the last `seconds`."""

    __slots__ = ("_bucket_seconds", "_buckets")

    def __init__(self, seconds: float, now: float) -> None:
        """Make an empty window that begins at `now`."""
        super().__init__()
        self._bucket_seconds = seconds / _BUCKETS
        self.quiet_until = now + self._bucket_seconds
        self._buckets: tuple[float, array[int]] = (self.quiet_until, _ZEROS)
        """When the current bucket ends; the totals at the start of each bucket, the oldest first. Replaced whole."""

    def good(self, now: float) -> None:
        """Take in a success; see `Window.good`."""
        self.take_in(now, False, False)

    def take_in(self, now: float, failed: bool, slow: bool) -> None:
        """Begin the bucket that `now` falls into, where it has not begun. Of two threads at once, either is right."""
        ends, starts = self._buckets
        if now >= ends:
            passed = self._passed(now, ends)
            ends += ((now - ends) // self._bucket_seconds + 1) * self._bucket_seconds
            begin = (self.calls - 1 & _BITS, self.failures - failed & _BITS, self.slow_calls - slow & _BITS)
            starts = starts[_TOTALS * passed :] + array("I", begin) * passed
            self._buckets = (ends, starts)
        self.before = self._totals_at(starts, 0)
        self.quiet_until = ends

    def held(self, now: float) -> Held:
        """What the window holds at `now`."""
        ends, starts = self._buckets
        oldest = _TOTALS * self._passed(now, ends) if now >= ends else 0
        if oldest >= len(starts):
            return 0, 0, 0
        calls, failures, slow_calls = self._totals_at(starts, oldest)
        return self.calls - calls, self.failures - failures, self.slow_calls - slow_calls

    def _totals_at(self, starts: array[int], bucket: int) -> Held:
        """The totals when a bucket began, whole: what `starts` has from `bucket` on are their last 32 bits."""
        calls, failures, slow_calls = self.calls, self.failures, self.slow_calls
        starting = starts[bucket : bucket + _TOTALS]
        return (
            calls - (calls - starting[0] & _BITS),
            failures - (failures - starting[1] & _BITS),
            slow_calls - (slow_calls - starting[2] & _BITS),
        )

    def _passed(self, now: float, ends: float) -> int:
        """How many buckets have ended by `now`, at most all of them."""
        return int(min((now - ends) // self._bucket_seconds + 1, _BUCKETS))


class CountWindow(Window):
    """The last `size` results. It takes in each: it is never quiet."""

    __slots__ = ("_size", "_totals")

    def __init__(self, size: int) -> None:
        """Make an empty window."""
        super().__init__()
        self._size = size
        self._totals: deque[tuple[int, int]] = deque([(0, 0)], maxlen=size + 1)
        """Failures and slow results since the beginning: before the oldest result in the window, then after each.
        Results that changed neither share one pair, so a good one costs eight bytes."""

    def good(self, now: float) -> None:  # noqa: ARG002 - the interface of both windows
        """Take in a success; see `Window.good`."""
        self._totals.append(self._totals[-1])

    def take_in(self, now: float, failed: bool, slow: bool) -> None:  # noqa: ARG002 - the interface of both windows
        """Take in a failure or a slow success; see `Window.take_in`."""
        totals, size = self._totals, self._size
        totals.append((self.failures, self.slow_calls))
        self.before = (self.calls - size if self.calls > size else 0, *totals[0])  # of one moment: without a call

    def held(self, now: float) -> Held:  # noqa: ARG002 - the interface of both windows
        """What the window holds."""
        totals = self._totals
        (failures, slow), (failures_before, slow_before) = totals[-1], totals[0]
        return len(totals) - 1, failures - failures_before, slow - slow_before
