"""A hold: an operator's order to keep a breaker forced open or disabled, for a time or for good.

It stands in the generation that it began, and ends with it. Nothing waits for its end: the next call that asks, or
whatever reads the state, finds that its time is over, and closes the breaker.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Final

from grpc_breaker._core.checks import BadValueError, optional, seconds

_LONGEST_REASON: Final = 200


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator's order to keep a breaker forced open, or disabled."""

    reason: str = ""
    """Why, in the operator's words."""
    since: float = field(default=0.0, compare=False)
    """When it was given, in seconds since the epoch; for display alone."""
    until: float = math.inf
    """When it ends, by the breaker's own clock; infinite where only another order ends it."""
    ends: float = field(default=math.inf, compare=False)
    """The same in seconds since the epoch; for display alone."""

    def left(self, now: float) -> float | None:
        """Seconds until it ends; `None` where only another order ends it."""
        return None if self.until == math.inf else max(0.0, self.until - now)

    def as_dict(self, now: float) -> dict[str, Any]:
        """What a snapshot shows of it."""
        return {"reason": self.reason, "since": self.since, "seconds_left": self.left(now)}


UNLIMITED: Final = Hold()
"""Until another order, for no reason that was given."""


def new_hold(order: str, ttl: float | None, reason: str, now: float) -> Hold:
    """Make a hold.

    Args:
        order: "force_open" or "disable", for errors.
        ttl: For how many seconds; `None` until another order.
        reason: Why, in the operator's words.
        now: When, by the breaker's own clock.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: `ttl` is out of range, or `reason` too long.
    """
    try:
        duration = optional(seconds)(ttl)
    except BadValueError as bad:
        message = f"{order} ttl must be {bad.allowed}, got {ttl!r}"
        raise bad.kind(message) from None
    message = f"{order} reason must be a text of at most {_LONGEST_REASON} characters, got {reason!r:.300}"
    if not isinstance(reason, str):
        raise TypeError(message)
    if len(reason) > _LONGEST_REASON:
        raise ValueError(message)
    since, lasts = time.time(), math.inf if duration is None else duration
    return Hold(reason, since, now + lasts, since + lasts)
