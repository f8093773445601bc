"""The clients that record the traffic of a process: what they are sent, and when it ends.

A call leaves an entry in a bounded queue, see `_core/traffic.py`; what is sent is made of it four times a second. A
reader that is too slow is sent less, and how much is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from grpc_breaker._core.events import StateChange
from grpc_breaker._core.registry import Registry
from grpc_breaker._core.traffic import TrafficQueue
from grpc_breaker._replay.lines import Lines
from grpc_breaker.admin._requests import Recorded
from grpc_breaker.admin._watchers import Listening
from grpc_breaker.admin.v1 import admin_pb2

_EVERY: Final = 0.25
"""Seconds between two responses."""
_QUEUE: Final = 10_000
"""Calls that may wait to be sent: those of such a time at 40_000 calls per second."""
_AT_ONCE: Final = 100
_ENOUGH: Final = 1_000_000
"""Characters in a response, to which those of a few lines may come."""
_LONGEST: Final = 10_000
"""Characters in a line: a client may call what it likes."""


class TrafficWatcher(Listening):
    """A client that records the traffic: what it was sent, and when it ends."""

    def __init__(
        self, breakers: Registry, wanted: Recorded, wake: Callable[[], object], cancel: Callable[[], object]
    ) -> None:
        """Record nothing yet.

        Args:
            breakers: Whose calls.
            wanted: Which, how many, and for how long.
            wake: As for `Listening`.
            cancel: As for `Listening`.
        """
        super().__init__(wake, cancel)
        self._queue = TrafficQueue(breakers, _QUEUE, wanted.has_name)
        self._lines = Lines(self._queue)
        self._left = wanted.max_calls
        self._until = time.monotonic() + wanted.seconds
        self._told_of_dropped = 0
        self._begun = False

    def begin(self) -> None:
        """Record from now on."""
        self._queue.open()

    def close(self) -> None:
        """Record nothing any more."""
        self._queue.close()

    def when_due(self) -> bytes:
        """What has come since; `over` from when nothing more will."""
        last = time.monotonic() >= self._until
        lines = [] if self._begun else [self._lines.header()]
        self._begun, size = True, 0
        while self._left and size < _ENOUGH and (taken := self._queue.take(min(_AT_ONCE, self._left))):
            self._left -= sum(not isinstance(it, StateChange) for it in taken)
            made = [line for line in map(self._lines.line, taken) if len(line) <= _LONGEST]
            self._queue.drop(len(taken) - len(made))
            size += sum(map(len, made))
            lines += made
        dropped = self._queue.dropped - self._told_of_dropped
        if dropped:
            lines.append(self._lines.dropped(dropped))
            self._told_of_dropped += dropped
        self.over = last or not self._left
        response = admin_pb2.RecordTrafficResponse(lines=[it.rstrip("\n") for it in lines], dropped=dropped)
        return response.SerializeToString()

    def when_woken(self) -> bytes:
        """Nothing: what has come can wait until its time."""
        return b""

    def seconds_to_wait(self) -> float:
        """Until its next response."""
        return min(_EVERY, max(0.0, self._until - time.monotonic()))
