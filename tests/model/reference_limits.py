"""A rate limit and a throttle as plain as can be, for the reference. Neither shares code with the package.

Both are written from what `RateLimit` and `Throttle` promise. They keep what happened, recount it each time, and are
given the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Rate:
    """A bucket with a hole: each call fills one place, and so many places a second run empty."""

    calls_per_second: float
    burst: int
    filled: float = 0.0
    looked_at: float = 0.0

    def at(self, now: float) -> float:
        """How full it is."""
        self.filled = max(0.0, self.filled - (now - self.looked_at) * self.calls_per_second)
        self.looked_at = now
        return self.filled

    def wait(self, now: float) -> float:
        """Seconds until there is a place."""
        return max(0.0, (self.at(now) + 1 - self.burst) / self.calls_per_second)

    def take(self, now: float) -> None:
        """A call goes its way."""
        self.filled = self.at(now) + 1

    def go_on_from(self, other: Rate, now: float) -> None:
        """This limit is in force instead: calls that were allowed count on, as many as its burst at most."""
        self.filled = min(other.at(now), self.burst)


@dataclass
class Throttled:
    """Which calls a throttle refuses. The calls that ended are the breaker's to count."""

    k: float
    window: float
    minimum_calls: int
    refused: list[float] = field(default_factory=list)
    since: float | None = None
    """When it was first asked since the breaker's window was empty: its tenths of the window begin there."""
    let_pass_at: float = -math.inf
    """When it last let a call pass that it would have refused."""

    def share(self, now: float, ended: int, failed: int) -> float:
        """The share of the calls that is refused."""
        if self.since is None:
            self.since = now
        calls = ended + len(self.counted(now))
        if calls < self.minimum_calls:
            return 0.0
        return max(0.0, (calls - self.k * (ended - failed)) / (calls + 1))

    def counted(self, now: float) -> list[float]:
        """The refusals that count now: those in the last ten tenths of the window."""
        since, tenth = self.since or 0.0, self.window / 10
        oldest = math.floor((now - since) / tenth) - 9
        return [at for at in self.refused if math.floor((at - since) / tenth) >= oldest]

    def refuses(self, now: float, ended: int, failed: int, chance: float) -> bool:
        """Whether it refuses a call. One passes each second, whatever the share is."""
        if chance >= self.share(now, ended, failed):
            return False
        if now >= self.let_pass_at + 1.0:
            self.let_pass_at = now
            return False
        self.refused.append(now)
        return True

    def forget(self) -> None:
        """The breaker has emptied its window, and so have we."""
        self.refused, self.since = [], None

    def go_on_from(self, other: Throttled) -> None:
        """This throttle is in force instead; what was refused counts on."""
        self.refused, self.since, self.let_pass_at = other.refused, other.since, other.let_pass_at
