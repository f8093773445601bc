"""What happens to calls, in a bounded queue: those that ended, those that were refused, and the changes of state.

What is on the path of a call is one look at a length and one step of a deque. What does not fit is counted and dropped,
the newest first, so that neither a burst of calls nor a reader that is stuck can fill memory or hold up a call.

Times are those of the breakers' clock. They are told as seconds since the epoch by one pair of readings, made when the
queue was opened: so a wall clock that is set meanwhile bends nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from grpc_breaker._core.breaker import CircuitBreaker, counts_of
from grpc_breaker._core.events import Listeners, StateChange
from grpc_breaker._core.recording import RecordedCall
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.registry import Registry

Happened = RecordedCall | Rejection | StateChange


def _all(breaker: str) -> bool:  # noqa: ARG001 - one of the functions that choose breakers
    return True


class TrafficQueue:
    """The queue. It may be opened and closed while calls are in flight, and read from any one thread."""

    def __init__(self, source: Registry | CircuitBreaker, size: int, wants: Callable[[str], bool] = _all) -> None:
        """Make one that is closed.

        Args:
            source: Whose calls.
            size: How much may wait to be read.
            wants: Tells by a breaker's name whether its calls are wanted; always the same. Default: all.

        Raises:
            TypeError: `source` is neither a registry nor a breaker.
            ValueError: It is a breaker of a registry.
        """
        self._changes: Listeners[StateChange]
        self._rejections: Listeners[Rejection]
        if isinstance(source, Registry):
            self._changes, self._rejections = source._changes, source._rejections
        elif not isinstance(source, CircuitBreaker):
            message = f"breakers must be a BreakerRegistry or a CircuitBreaker, got {source!r}"
            raise TypeError(message)
        elif counts_of(source) is None:
            message = f"{source!r} is a breaker of a registry; record the registry"
            raise ValueError(message)
        else:
            self._changes, self._rejections = source._change_listeners, source._rejection_listeners
        self._source = source
        self._size = size
        self._waiting: deque[Happened] = deque()
        self._dropped = 0
        self._epoch = 0.0
        self.wants = wants

    def open(self) -> None:
        """Let everything in that happens from now on, with calls admitted from now on.

        To be closed also where this raises.
        """
        self._epoch = time.time() - self._source._clock()
        self._changes.add(self._changed, self)
        self._rejections.add(self._refused, self)
        self._source._recorders.add(self, self._breakers)

    def close(self) -> None:
        """Let nothing in any more; what waits can still be taken. Does nothing if it is closed."""
        self._changes.pop(self, None)
        self._rejections.pop(self, None)
        self._source._recorders.remove(self, self._breakers)

    def _breakers(self) -> list[CircuitBreaker]:
        """The breakers whose calls may be wanted."""
        return self._source._all_held() if isinstance(self._source, Registry) else [self._source]

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    def tell(self, call: RecordedCall) -> None:
        """Take in a call that has ended."""
        if self.wants(call[0].name):
            self._enter(call)

    def _refused(self, rejection: Rejection) -> None:
        if rejection.enforced and self.wants(rejection.breaker):
            self._enter(rejection)

    def _changed(self, change: StateChange) -> None:
        if self.wants(change.breaker):
            self._enter(change)

    def _enter(self, happened: Happened) -> None:
        if len(self._waiting) < self._size:
            self._waiting.append(happened)
        else:
            self._dropped += 1

    def drop(self, many: int) -> None:
        """Count what was taken as dropped, because it could not be kept."""
        self._dropped += many

    @property
    def dropped(self) -> int:
        """How much was dropped so far."""
        return self._dropped

    def take(self, most: int) -> list[Happened]:
        """Take out what has waited longest."""
        waiting = self._waiting
        return [waiting.popleft() for _ in range(min(most, len(waiting)))]

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.time_of(self._source._clock())

    def time_of(self, at: float) -> float:
        """A time of the breakers' clock, in seconds since the epoch."""
        return self._epoch + at
