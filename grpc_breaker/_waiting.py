"""How long to wait before a refused call is worth another try.

Nobody is told when a place becomes free in a bulkhead, or a slot for a probe: whoever waits looks again after a pause,
which grows to a tenth of a second. Where the time is known, at an open breaker and a rate limit, the wait is that long.
A change of the breaker's state ends every wait at once. Each pause is up to a tenth longer, so that those who wait
together do not come together.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import random
from typing import Final

from grpc_breaker._core.breaker import CircuitBreaker

_SHORTEST: Final = 0.005
_LONGEST: Final = 0.1
_SPREAD: Final = 0.1
_UNTIL_A_CHANGE: Final = 60.0
"""Seconds between two looks at a breaker that an operator holds open: a change of its state ends the wait anyway."""


def pauses(breaker: CircuitBreaker) -> Iterator[float]:
    """Seconds to wait before each next look, at most; ends as soon as a call would be admitted."""
    pause = _SHORTEST
    while (refused := breaker.refusal_now()) is not None:
        wait = refused.retry_after
        if wait is None:
            yield _UNTIL_A_CHANGE
        else:
            yield max(wait, pause) * (1.0 + _SPREAD * random())  # noqa: S311 - no secret
        pause = min(2 * pause, _LONGEST)


def check_timeout(timeout: object) -> float:
    """The seconds to wait at most.

    Raises:
        TypeError: No number.
        ValueError: Below 0, or not a number.
    """
    message = f"wait_until_admitted timeout must be a number of seconds, 0 or more, got {timeout!r}"
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(message)
    if not timeout >= 0:
        raise ValueError(message)
    return min(float(timeout), 1e9)
