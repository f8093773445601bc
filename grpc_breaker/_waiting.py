"""How long to wait before a refused call is worth another try.

Nobody is told when a place becomes free in a bulkhead, or a slot for a probe: whoever waits looks again after a pause,
which grows to a tenth of a second. Where the time is known, at an open breaker and a rate limit, the wait is that long,
but a second at most: another policy may be put in force, of which nobody is told either. A change of the breaker's
state ends every wait at once. Each pause is up to a tenth longer, so that those who wait together do not come together.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import random
from typing import Final

from grpc_breaker._core.names import split_method
from grpc_breaker._core.registry import Registry

_SHORTEST: Final = 0.005
_GROWS_TO: Final = 0.1
_LONGEST: Final = 1.0
_SPREAD: Final = 0.1


def pauses(breakers: Registry, method: str | bytes, target: str | None) -> Iterator[float]:
    """Seconds to wait before each next look, at most; ends as soon as a call would be admitted.

    Each time the breaker is looked up again: by then the method may have another, or none.
    """
    pause = _SHORTEST
    while (breaker := breakers.breaker_for(method, target)) and (refused := breaker.refusal_now()):
        wait = refused.retry_after
        wait = _LONGEST if wait is None else min(max(wait, pause), _LONGEST)
        yield wait * (1.0 + _SPREAD * random())  # noqa: S311 - no secret
        pause = min(2 * pause, _GROWS_TO)


def check_method(method: object) -> None:
    """Check that calls can have this name: for one that none has, every wait would be over at once.

    Raises:
        TypeError: Neither a string nor bytes.
        ValueError: The name of no method.
    """
    message = f"wait_until_admitted method must be a name like 'pkg.Service/Method', got {method!r}"
    if not isinstance(method, str | bytes):
        raise TypeError(message)
    try:
        name = split_method(method if isinstance(method, str) else method.decode())[1]
    except ValueError:
        name = ""
    if not name:
        raise ValueError(message)


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
    return float(min(timeout, 1e9))
