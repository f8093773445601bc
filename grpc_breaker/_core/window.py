"""Counting results inside a window: how many there were, how many failed, how many were slow.

Two shapes, one interface. Both cost O(1) a result and hold constant memory whatever the traffic. Neither has a clock of
its own: the breaker says what time it is. What a window holds can be asked without changing it.

Totals only ever grow, and what a window holds is the difference between two of them: the totals now, and the totals
when the oldest result still inside came. So a result is counted by one addition or one append, and where threads meet,
or an exception arrives between two lines, at most that one result is missing; nothing stays wrong.

A success opens nothing, so it is only counted: until `quiet_until`, by an addition.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from typing import Final, Self

from grpc_breaker._core.events import DETAILS_LENGTH, LAST_FAILURES

_BUCKETS: Final = 10
"""A result leaves a time window between 0.9 and 1.0 window lengths after it came; finer costs memory, not time."""

_TOTALS: Final = 3
"""Numbers kept for each bucket: calls, failures, slow."""

_LONG_AGO: Final = -math.inf


Held = tuple[int, int, int]
"""What a window holds at one moment: calls, failures, slow calls. A call that failed slowly is in both of the
latter."""


class Window:
    """What both windows share: the number of calls, the row, and the last failures."""

    __slots__ = ("_counted_at", "_last", "calls", "in_a_row", "quiet_until")

    def __init__(self) -> None:
        self.calls: int = 0
        """Results since a time window was made; a window of the last calls does not use it."""
        self.in_a_row = 0
        """Failures without a success between them, whatever the window holds."""
        self._counted_at = _LONG_AGO
        """When the row was last lengthened."""
        self._last: list[tuple[str, str]] = []
        """Status and details of the last few failures, the oldest first: those that events report, and some before."""
        self.quiet_until = _LONG_AGO
        """Until then, a success needs nothing but to be added."""

    def good(self, now: float) -> None:
        """Take in a success that has just been added to `calls`, at `quiet_until` or later."""
        raise NotImplementedError

    def failure(self, now: float, began: float, slow: bool, status: str, details: str) -> Held | None:
        """Count a failure.

        Returns:
            What the window holds then; `None` for one more failure of an incident.
        """
        raise NotImplementedError

    def slow(self, now: float) -> Held:
        """Count a success that was slow; returns what the window holds then."""
        raise NotImplementedError

    def held(self, now: float) -> Held:
        """What the window holds at `now`."""
        raise NotImplementedError

    def note_failure(self, now: float, began: float, status: str, details: str) -> bool:
        """Note a failure for the row and the last failures; false for one more failure of an incident.

        One incident is one failure in a row: a failure lengthens it only if it began after the one before it that did.
        """
        if len(details) > DETAILS_LENGTH:
            details = details[:DETAILS_LENGTH]
        last = self._last
        last.append((status, details))
        if len(last) > 2 * LAST_FAILURES:
            del last[:LAST_FAILURES]
        if began < self._counted_at:
            return False
        self.in_a_row += 1
        self._counted_at = now
        return True

    @property
    def has_failures(self) -> bool:
        """Whether any failure was counted since the window was made."""
        return bool(self._last)

    def last_failures(self) -> list[tuple[str, str]]:
        """Status and details of the last few failures, the oldest first."""
        return self._last[-LAST_FAILURES:]

    def after(self, window: Window) -> Self:
        """Go on with the row and the last failures of another window; returns this one."""
        self.in_a_row, self._counted_at, self._last = window.in_a_row, window._counted_at, window._last
        return self


class TimeWindow(Window):
    """The results of the last `seconds`."""

    __slots__ = ("_bucket_seconds", "_buckets", "_failures", "_slow")

    def __init__(self, seconds: float, now: float) -> None:
        """Make an empty window that begins at `now`."""
        super().__init__()
        self._bucket_seconds = seconds / _BUCKETS
        self._failures = self._slow = 0
        self.quiet_until = now + self._bucket_seconds
        starts: array[int] = array("Q", bytes(8 * _TOTALS * _BUCKETS))
        self._buckets: tuple[float, array[int], Held] = (self.quiet_until, starts, (0, 0, 0))
        """When the current bucket ends, the totals at the start of each bucket, the oldest first, and those of the
        oldest once more. Replaced whole."""

    def good(self, now: float) -> None:
        """Take in a success that has just been added to `calls`, at `quiet_until` or later."""
        if now >= self.quiet_until:
            self._begin_bucket(now, self.calls - 1)

    def failure(self, now: float, began: float, slow: bool, status: str, details: str) -> Held | None:
        """Count a failure; returns what the window holds then, or `None` for one more failure of an incident."""
        separate = self.note_failure(now, began, status, details)
        if now >= self.quiet_until:
            self._begin_bucket(now, self.calls)
        _, _, (calls, failures, slow_calls) = self._buckets
        self.calls += 1
        self._failures += 1
        if slow:
            self._slow += 1
        return (self.calls - calls, self._failures - failures, self._slow - slow_calls) if separate else None

    def slow(self, now: float) -> Held:
        """Count a success that was slow; returns what the window holds then."""
        self.in_a_row = 0
        if now >= self.quiet_until:
            self._begin_bucket(now, self.calls)
        self.calls += 1
        self._slow += 1
        return self.held(now)

    def held(self, now: float) -> Held:
        """What the window holds at `now`."""
        ends, starts, (calls, failures, slow) = self._buckets
        if now >= ends:
            oldest = _TOTALS * self._passed(now, ends)
            if oldest >= len(starts):
                return 0, 0, 0
            calls, failures, slow = starts[oldest : oldest + _TOTALS]
        return self.calls - calls, self._failures - failures, self._slow - slow

    def _passed(self, now: float, ends: float) -> int:
        """How many buckets have ended by `now`, at most all of them."""
        return int(min((now - ends) // self._bucket_seconds + 1, _BUCKETS))

    def _begin_bucket(self, now: float, calls: int) -> None:
        """Begin the bucket that `now` falls into. Where two threads do it at once, either result is right."""
        ends, starts, _ = self._buckets
        if now >= ends:  # pragma: no branch - else another thread has begun it
            passed = self._passed(now, ends)
            ends += ((now - ends) // self._bucket_seconds + 1) * self._bucket_seconds
            starts = starts[_TOTALS * passed :] + array("Q", (calls, self._failures, self._slow)) * passed
            self._buckets = (ends, starts, (starts[0], starts[1], starts[2]))
        self.quiet_until = ends


class CountWindow(Window):
    """The last `size` results."""

    __slots__ = ("_totals",)

    def __init__(self, size: int) -> None:
        """Make an empty window."""
        super().__init__()
        self._totals: deque[tuple[int, int]] = deque([(0, 0)], maxlen=size + 1)
        """Failures and slow results since the beginning: before the oldest result in the window, then after each.
        Results that changed neither share one pair, so a good one costs eight bytes."""

    def good(self, now: float) -> None:  # noqa: ARG002 - the interface of both windows
        """Take in a success that has just been added to `calls`: this window keeps each."""
        self._totals.append(self._totals[-1])

    def failure(self, now: float, began: float, slow: bool, status: str, details: str) -> Held | None:
        """Count a failure; returns what the window holds then, or `None` for one more failure of an incident."""
        separate = self.note_failure(now, began, status, details)
        failures, slow_ones = self._totals[-1]
        self._totals.append((failures + 1, slow_ones + slow))
        return self.held(now) if separate else None

    def slow(self, now: float) -> Held:
        """Count a success that was slow; returns what the window holds then."""
        self.in_a_row = 0
        failures, slow_ones = self._totals[-1]
        self._totals.append((failures, slow_ones + 1))
        return self.held(now)

    def held(self, now: float) -> Held:  # noqa: ARG002 - the interface of both windows
        """What the window holds."""
        totals = self._totals
        (failures, slow), (failures_before, slow_before) = totals[-1], totals[0]
        return len(totals) - 1, failures - failures_before, slow - slow_before
