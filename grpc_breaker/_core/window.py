"""Counting results: how many, how many failed, how many were slow, inside a window.

Two shapes, one face. Both cost O(1) a result and hold constant memory whatever the traffic; neither has a lock or a
clock of its own: the breaker calls them inside its own critical section and says what time it is.

Good results that the breaker counts outside that section, one step of a counter each, are the time window's too: it is
given the counter to read, and `calm_until`, the end of its current bucket, is how long they may go on without it.

`TimeWindow` keeps running totals that only ever grow, and a ring of what those totals were when each bucket began. What
the window holds is the difference to the oldest bucket still inside it, so a result costs one addition and never more.
A window that is asked late does not report the distant past; but asking changes nothing, because a signal handler may
ask in the middle of anything.
"""

from __future__ import annotations

import math
from array import array
from itertools import count
from typing import Final, NamedTuple, Protocol

_BUCKETS: Final = 10
"""A result leaves a time window between 0.9 and 1.0 window lengths after it came; finer costs memory, not time."""

_FAILED: Final = 1
_SLOW: Final = 2


class Counts(NamedTuple):
    """What a window holds at one moment."""

    calls: int
    failures: int
    slow: int


def steps(counter: count[int]) -> int:
    """How many steps a counter has made. Looking is no step: how an iterator is written shows where it is."""
    return int(repr(counter)[len("count(") : -1])


class Window(Protocol):
    """The face of both windows."""

    calm_until: float
    """Until when good results may be counted without the window."""

    def record(self, now: float, failed: bool, slow: bool) -> Counts:
        """Count one result; answers what the window holds with it."""
        ...

    def counts(self, now: float) -> Counts:
        """What the window holds at `now`."""
        ...


class TimeWindow:
    """The results of the last `seconds`."""

    __slots__ = (
        "_bases",
        "_bucket_seconds",
        "_calls",
        "_elsewhere",
        "_failures",
        "_slot",
        "_slow",
        "calm_until",
    )

    def __init__(self, seconds: float, now: float, elsewhere: count[int]) -> None:
        """Make an empty window; `elsewhere` counts good results without it."""
        self._bucket_seconds = seconds / _BUCKETS
        self.calm_until = now + self._bucket_seconds
        self._elsewhere = elsewhere
        self._calls = -steps(elsewhere)
        self._failures = self._slow = 0
        self._bases = array("Q", (0,)) * (3 * _BUCKETS)  # the totals at the start of each bucket
        self._slot = 0

    def record(self, now: float, failed: bool, slow: bool) -> Counts:
        """Count one result; answers what the window holds with it."""
        if now >= self.calm_until:
            self._advance(now)
        self._calls += 1
        self._failures += failed
        self._slow += slow
        return self.counts(now)

    def counts(self, now: float) -> Counts:
        """What the window holds at `now`."""
        passed = self._passed(now)
        if passed >= _BUCKETS:
            return Counts(0, 0, 0)
        bases, oldest = self._bases, 3 * ((self._slot + int(passed) + 1) % _BUCKETS)
        return Counts(
            self._calls + steps(self._elsewhere) - bases[oldest],
            self._failures - bases[oldest + 1],
            self._slow - bases[oldest + 2],
        )

    def _passed(self, now: float) -> float:
        """How many buckets have ended by `now`, the current one first."""
        return (now - self.calm_until) // self._bucket_seconds + 1 if now >= self.calm_until else 0

    def _advance(self, now: float) -> None:
        """Begin the bucket that `now` falls into, forgetting those that left the window."""
        passed = self._passed(now)
        totals = (self._calls + steps(self._elsewhere), self._failures, self._slow)
        for _ in range(int(min(passed, _BUCKETS))):
            self._slot = (self._slot + 1) % _BUCKETS
            at = 3 * self._slot
            self._bases[at], self._bases[at + 1], self._bases[at + 2] = totals
        self.calm_until += passed * self._bucket_seconds


class CountWindow:
    """The last `size` results."""

    __slots__ = ("_at", "_calls", "_failures", "_ring", "_slow", "calm_until")

    def __init__(self, size: int) -> None:
        self.calm_until = -math.inf  # which result leaves depends on every one that came
        self._ring = bytearray(size)
        self._at = self._calls = self._failures = self._slow = 0

    def record(self, now: float, failed: bool, slow: bool) -> Counts:
        """Count one result; answers what the window holds with it."""
        at = self._at
        if self._calls == len(self._ring):
            forgotten = self._ring[at]
            self._failures -= forgotten & _FAILED
            self._slow -= (forgotten & _SLOW) >> 1
        else:
            self._calls += 1
        self._failures += failed
        self._slow += slow
        self._ring[at] = failed * _FAILED + slow * _SLOW
        self._at = (at + 1) % len(self._ring)
        return self.counts(now)

    def counts(self, now: float) -> Counts:  # noqa: ARG002 - the face of both windows
        """What the window holds."""
        return Counts(self._calls, self._failures, self._slow)
