"""When a method was healthy and when sick, by the record alone: the same for every policy.

A method's calls are cut into *stretches* by the time at which they began: at least 5 seconds and 10 calls, at most a
minute. What failed is what gRPC's statuses say without a policy of the user's. A stretch is

    healthy    at most a tenth of its calls failed
    sick       at least half of them did
    unclear    between

A trip is *in healthy time* if neither the stretch in which the breaker opened, nor those before and after it, had more
than a tenth of failures. Durations of healthy stretches are kept in a histogram whose buckets are 2 % wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

HEALTHY: Final = 0.1
"""Share of failures up to which a stretch is healthy."""
SICK: Final = 0.5
"""Share of failures from which a stretch is sick."""
LEAST_SECONDS: Final = 5.0
LEAST_CALLS: Final = 10
MOST_SECONDS: Final = 60.0

MOST_NAMES: Final = 2000
"""Methods that are followed each by itself."""

_SHARED: Final = ("other", "")
_WIDTH: Final = math.log(1.02)
_SHORTEST: Final = 1e-6


class Histogram:
    """Durations, each to 2 %: some hundred numbers whatever their count."""

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0

    def add(self, seconds: float) -> None:
        """Add one."""
        bucket = int(math.log(seconds / _SHORTEST) / _WIDTH) if seconds > _SHORTEST else 0
        buckets = self.buckets
        buckets[bucket] = buckets.get(bucket, 0) + 1
        self.count += 1

    def take(self, other: Histogram) -> None:
        """Add all of another one."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count

    def quantile(self, share: float) -> float | None:
        """The duration that this share of them does not exceed; `None` without any."""
        buckets = sorted(self.buckets)
        seen = accumulate(self.buckets[it] for it in buckets)
        found = next((it for it, so_far in zip(buckets, seen, strict=True) if so_far >= share * self.count), None)
        return None if found is None else _SHORTEST * math.exp((found + 1) * _WIDTH)


class Health:
    """How one method was, and what each policy did while it was so."""

    def __init__(self, policies: int) -> None:
        self.calls = 0
        self.failures = 0
        self.healthy_calls = 0
        self.healthy_failures = 0
        self.healthy_seconds = 0.0
        self.busiest = 0.0
        """Calls per second in the busiest healthy stretch."""
        self.sick_calls = 0
        self.sick_seconds = 0.0
        self.streams = 0
        self.durations = Histogram()
        """Of the answers in healthy stretches, without streams."""
        self.sent_to_sick = [0] * policies
        """Calls that each policy let through in sick stretches."""
        self.healthy_trips = [0] * policies
        """Trips in healthy time."""
        self.admitted = [0] * policies
        """In the stretch that is not over yet."""
        self.trips = [0] * policies
        self.since = -math.inf
        self._shares = (0.0, 0.0)
        """Failures in the two stretches before."""
        self._trips_before: Sequence[int] = [0] * policies
        self._calls = 0
        self._failures = 0
        self._durations = Histogram()
        self._until = -math.inf

    def note(self, start: float, duration: float, success: bool, failure: bool, stream: bool) -> None:
        """Take in a call of the record, before it is played."""
        if start >= self._until and (self._calls >= LEAST_CALLS or start >= self.since + MOST_SECONDS):
            self.end(start)
            self.since = start
            self._until = start + LEAST_SECONDS
        self._calls += 1
        if failure:
            self._failures += 1
        if stream:
            self.streams += 1
        elif success:
            self._durations.add(duration)

    def end(self, now: float) -> None:
        """End a stretch, and judge what happened in it and in the one before."""
        calls, failures = self._calls, self._failures
        if not calls:
            return
        self.calls += calls
        self.failures += failures
        share, seconds = failures / calls, min(max(now - self.since, 1e-6), MOST_SECONDS)
        if share <= HEALTHY:
            self.healthy_calls += calls
            self.healthy_failures += failures
            self.healthy_seconds += seconds
            if calls >= LEAST_CALLS:
                self.busiest = max(self.busiest, calls / max(seconds, 1.0))
            self.durations.take(self._durations)
        elif share >= SICK:
            self.sick_calls += calls
            self.sick_seconds += seconds
            self.sent_to_sick = [sum(it) for it in zip(self.sent_to_sick, self.admitted, strict=True)]
        self._judge(share)
        self._trips_before, self.trips = self.trips, [0] * len(self.trips)
        self._shares = (self._shares[1], share)
        self.admitted = [0] * len(self.admitted)
        self._calls = self._failures = 0
        self._durations = Histogram()

    def finish(self, now: float) -> None:
        """End the last stretch; nothing comes after it."""
        self.end(now)
        self._judge(0.0)

    def _judge(self, after: float) -> None:
        """Count the trips of the stretch before the one that has just ended, whose share of failures is `after`."""
        if after <= HEALTHY and max(self._shares) <= HEALTHY:
            self.healthy_trips = [sum(it) for it in zip(self.healthy_trips, self._trips_before, strict=True)]


class Healths(dict[tuple[str, str], Health]):
    """How each method was, by its name and target. Of very many, the last ones share one."""

    def __init__(self, policies: int) -> None:
        super().__init__()
        self._policies = policies

    def of(self, method: str, target: str) -> Health:
        """That of a method, made if there is none."""
        key = (method, target)
        if key not in self and len(self) >= MOST_NAMES:
            key = _SHARED
        return self.setdefault(key, Health(self._policies))
